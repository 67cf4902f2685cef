"""Conversations tell what is written into them, piece by piece."""

from __future__ import annotations

import logging

import pytest
from vision_agents.core.agents.conversation import InMemoryConversation

from visionagents_runner.edge import RoomConversation, watch_words


@pytest.fixture(params=[RoomConversation, lambda text: InMemoryConversation(text, [])], ids=["ours", "another"])
def conversation(request):
    return request.param("Be brief.")


@pytest.fixture
def heard(conversation):
    words = []
    watch_words(conversation, words.append, agent_id="a")
    return words


async def write(conversation, *deltas, final, message_id="m"):
    for index, delta in enumerate(deltas):
        await conversation.upsert_message("assistant", "agent", delta, message_id, content_index=index, completed=False)
    await conversation.upsert_message("assistant", "agent", final, message_id, completed=True, replace=True)


async def test_a_streamed_reply_comes_as_deltas_and_a_completion(conversation, heard):
    await write(conversation, "Hello ", "world ", final="Hello world")
    assert [(w.delta, w.text, w.completed) for w in heard] == [
        ("Hello ", "Hello ", False),
        ("world ", "Hello world ", False),
        ("", "Hello world", True),
    ]
    assert {(w.role, w.user_id, w.message_id) for w in heard} == {("assistant", "agent", "m")}


async def test_pieces_out_of_order_are_told_in_order(conversation, heard):
    for index in (1, 0):
        await conversation.upsert_message("assistant", "agent", "ab"[index], "m", content_index=index, completed=False)
    assert [w.delta for w in heard] == ["", "ab"]


async def test_another_wording_says_that_it_is_no_continuation(conversation, heard):
    await write(conversation, "Hullo", final="Hello")
    assert (heard[-1].delta, heard[-1].text, heard[-1].completed) == (None, "Hello", True)


async def test_a_realtime_transcript_without_indexes_is_told_too(conversation, heard):
    await conversation.upsert_message("assistant", "agent", "Hel", "m", completed=False)
    await conversation.upsert_message("assistant", "agent", "lo", "m", completed=False)
    assert [w.delta for w in heard] == ["Hel", "lo"]


async def test_a_piece_that_comes_after_the_completion_is_not_told(conversation, heard):
    await write(conversation, "Hello", final="Hello")
    count = len(heard)
    await conversation.upsert_message("assistant", "agent", "late", "m", content_index=1, completed=False)
    assert len(heard) == count


async def test_a_message_sent_whole_is_told_once(conversation, heard):
    await conversation.send_message("user", "caller", "hi")
    assert [(w.role, w.delta, w.completed) for w in heard] == [("user", "hi", True)]


async def test_a_listener_that_raises_is_logged_and_harms_nobody(conversation, heard, caplog):
    def broken(words):
        raise ValueError("broken")

    watch_words(conversation, broken)
    with caplog.at_level(logging.ERROR):
        await conversation.send_message("user", "caller", "hi")
    assert "A listener of the conversation failed" in caplog.text
    assert len(heard) == 1
    assert conversation.messages[0].content == "hi"


async def test_watching_can_be_undone(conversation):
    words = []
    undo = watch_words(conversation, words.append)
    undo()
    await conversation.send_message("user", "caller", "hi")
    assert words == []
    assert "upsert_message" not in vars(conversation)
