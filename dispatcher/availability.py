"""Which lanes cannot take a task now, and why."""

from __future__ import annotations

from collections.abc import Mapping

from broker.settings import Settings
from broker.settings.lanes import Lane
from broker.state import Seen
from dispatcher.policy import LaneSight, absent


def unavailable(settings: Settings, lanes: Mapping[str, Seen], watched_s: float) -> dict[str, str]:
    """Reason by lane; a lane that is not in it can take tasks."""
    reasons = {}
    for name, lane in settings.lanes.items():
        seen = lanes.get(name)
        sight = LaneSight(
            None if seen is None else seen.s_ago,
            needs_key(lane),
            watched_s,
            ailing=seen is not None and seen.ailing > 0 and seen.well == 0,
        )
        reason = absent(sight, settings.fleet.lane_absent_s)
        if reason is not None:
            reasons[name] = reason
    return reasons


def needs_key(lane: Lane) -> bool:
    return any(door.api_key_env or door.api_key_file for door in lane.doors())
