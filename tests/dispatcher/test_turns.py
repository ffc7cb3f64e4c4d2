"""A conversation with tools, as plain data."""

from broker.call import ToolCall
from dispatcher.turns import asked, pending, told


def test_a_call_of_a_conversation_that_the_version_before_began_waits_for_its_answer() -> None:
    look = {"name": "look", "arguments": "{}"}
    began = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "t00002000", "type": "function", "function": look}],
        "lane": "x",
    }
    before = [began, told(ToolCall("t00002000", **look), "seen")]
    more = asked(before, "", [ToolCall("call_1", **look)], "x")
    assert [call.name for call in pending([*before, more])] == ["look"]
