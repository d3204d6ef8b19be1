import pytest
from matplotlib.figure import Figure

from ftjax.decide import decision_page


@pytest.mark.parametrize(("second", "leaders"), [((0.5, 0.9), 0), ((0.5, 0.5), 1)])
def test_a_line_leads_from_a_name_that_has_moved_to_its_point(second, leaders):
    figure = Figure()
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    finish = decision_page._points(
        axes, {"lora": 0.5, "full": second[0]}, {"lora": 0.5, "full": second[1]}, [], "cost"
    )
    figure.draw_without_rendering()
    finish()
    names = [each for each in axes.texts if each.get_text()]
    lines = [each for each in axes.texts if each.arrow_patch is not None]
    boxes = [each.get_window_extent() for each in names]
    assert not boxes[0].overlaps(boxes[1])
    assert [(each.xy, each.xyann) for each in lines] == [
        (names[1].xy, names[1].xyann) for _ in range(leaders)
    ]
