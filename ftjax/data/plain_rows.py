"""Rows that are learned as they are: texts, prompts with their responses, conversations.

text     {"text": str}
prompt   {"prompt": str or messages, "response": str or messages}
chat     {"messages": [{"role": str, "content": str}, ...]}
"""


def text(row) -> dict:
    """Check a text."""
    return {"text": row.text("text"), "weight": row.weight()}


def prompt(row) -> dict:
    """Check a prompt and its response; a prompt may be empty, and texts do not mix with messages.

    A response of text to a prompt of messages is the assistant's next message.
    """
    prompt, response = row.value("prompt"), row.value("response")
    if not isinstance(prompt, list):
        prompt = row.checked_text(prompt, "prompt", empty=True)
        response = row.checked_text(response, "response")
        return {"prompt": prompt, "response": response, "weight": row.weight()}
    prompt, beside = row.with_system(row.messages(prompt, "prompt"))
    if not isinstance(response, list):
        response = row.checked_text(response, "response")
        response = [{"role": "assistant", "content": response}]
    response = row.answered(row.messages(response, "response"), "response")
    return {"prompt": prompt, "response": response, "weight": row.weight(), **beside}


def chat(row) -> dict:
    """Check a conversation."""
    messages = row.answered(row.messages(row.value("messages"), "messages"), "messages")
    messages, beside = row.with_system(messages)
    return {"messages": messages, "weight": row.weight(), **beside}
