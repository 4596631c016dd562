"""Questions that one node asks others, or all of them, and the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from gevent.event import Event

from ..exceptions import PhoenixError
from ..protocol.messages import Broadcast
from ..pubsub.local import Subscriber
from ..runtime.engine import Engine
from .names import WATCHING

log = logging.getLogger("flask_phoenix.server")

#: Seconds in which other nodes have to answer.
ANSWER_TIMEOUT = 1.5

ASK, ANSWER = "ask", "answer"


class Asking:
    """Asks, and answers what others ask.

    :param answers: what can be asked, by name: functions of one argument, which never block.
    """

    def __init__(self, engine: Engine, answers: dict[str, Callable[[Any], Any]]) -> None:
        self._engine = engine
        self._answers = answers
        self._numbers = count(1)
        #: The questions of this node that are open: whose answers are due, what has come, and when it is all.
        self._open: dict[int, tuple[set[str], dict[str, Any], Event]] = {}
        self._subscriber = Subscriber(self._receive_answer)
        self._topic = ""

    def start(self) -> None:
        """Hear the answers; may block until other nodes know."""
        if not self._topic and self._engine.node.adapter is not None:
            self._topic = f"{WATCHING}:{self._engine.node.name}"
            self._engine.pubsub.subscribe(self._topic, self._subscriber)

    def stop(self) -> None:
        """Hear no more."""
        topic, self._topic = self._topic, ""
        if topic:
            self._engine.pubsub.unsubscribe(topic, self._subscriber)

    def ask(self, what: str, argument: Any, nodes: Iterable[str]) -> dict[str, Any]:
        """Ask nodes, this one or others; return the answers that have come in time, by node."""
        here, due = self._engine.node.name, set(nodes)
        answers = {here: self._answers[what](argument)} if here in due else {}
        due.discard(here)
        if due:
            answers |= self._ask_others(what, argument, due)
        return answers

    def receive(self, question: dict[str, Any]) -> None:
        """Answer a question of another node, if it is for this one."""
        here = self._engine.node.name
        if here in question["nodes"] and question["what"] in self._answers:
            answer = self._answers[question["what"]](question["argument"])
            told = {"number": question["number"], "node": here, "answer": answer}
            self._publish(f"{WATCHING}:{question['node']}", ANSWER, told)

    def _ask_others(self, what: str, argument: Any, due: set[str]) -> dict[str, Any]:
        number, complete, answers = next(self._numbers), Event(), dict[str, Any]()
        question = {"node": self._engine.node.name, "nodes": sorted(due), "number": number}
        self._open[number] = due, answers, complete
        try:
            self._publish(WATCHING, ASK, {**question, "what": what, "argument": argument})
            complete.wait(ANSWER_TIMEOUT)
        finally:
            del self._open[number]
        return answers

    def _publish(self, topic: str, event: str, payload: dict[str, Any]) -> None:
        try:
            self._engine.publish(Broadcast(topic, event, payload))
        except PhoenixError as error:
            log.debug("the dashboards of other nodes are not told: %s", error)

    def _receive_answer(self, broadcast: Broadcast) -> None:
        told = self._engine.pubsub.read(broadcast).payload
        due, answers, complete = self._open.get(told["number"], (set(), {}, None))
        answers[told["node"]] = told["answer"]
        if complete is not None and due <= answers.keys():
            complete.set()
