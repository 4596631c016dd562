"""The questions of the benchmark: one file each, whose docstring is the question, and ``ask`` the answer."""

from __future__ import annotations

from types import ModuleType

from benchmarks.questions import (
    budgets,
    connect,
    crossing,
    echo,
    fanout,
    history,
    idle,
    latency,
    longpoll,
    memory,
    nodes,
    payloads,
    presence,
    rooms,
    storm,
    subscribers,
    topics,
    typed,
)

#: In the order in which they are asked. Budgets are asked only by name: they repeat what the others tell.
QUESTIONS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        fanout,
        echo,
        latency,
        connect,
        memory,
        rooms,
        payloads,
        history,
        typed,
        longpoll,
        nodes,
        subscribers,
        topics,
        presence,
        crossing,
        idle,
        storm,
        budgets,
    )
}
