from ftjax.decide import arm_table


def test_what_had_no_room_is_said_of_each_arm():
    arm = dict(trials=[{}], seeds=[0], validation=[0.5])
    record = dict(
        arms={
            "rag": arm | dict(left_out={"passages without room": 3, "shots without room": 1}),
            "lora": arm | dict(left_out={}),
            "full": dict(error="no memory"),
        },
        metric="f1", base="tiny", overlap=dict(train=0, passages=2), retrieval=None,
    )  # fmt: skip
    lines = arm_table.rules(record)
    assert "rag: left out: 3 passages without room, 1 shots without room" in lines
    assert not [line for line in lines if line.startswith("lora")]
    assert "full failed: no memory" in lines
