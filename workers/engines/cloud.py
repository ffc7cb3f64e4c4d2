"""What an engine that rents its model needs on this node: the SDK, a key, a model's name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TypeVar

from broker.errors import EngineUnavailable
from broker.settings.lanes import Lane
from broker.settings.secrets import secret

NO_KEY = "none"
Connected = TypeVar("Connected")


def check(lane_name: str, lane: Lane, package: str) -> None:
    """Raises EngineUnavailable for what is missing. Imports nothing."""
    if find_spec(package) is None:
        raise EngineUnavailable(
            f"lane {lane_name!r} needs the package {package}", mend=f"pip install 'laneway[{package}]'"
        )
    api_key(lane_name, lane)
    if not lane.model:
        raise EngineUnavailable(f"lane {lane_name!r} names no model", mend=f"set lanes.{lane_name}.model")


def opened(connected: Connected | None, lane_name: str) -> Connected:
    """What ``open`` has made. Raises EngineUnavailable before that."""
    if connected is None:
        raise EngineUnavailable(f"lane {lane_name!r} is not open", mend="call open() first")
    return connected


def api_key(lane_name: str, lane: Lane) -> str:
    """``NO_KEY`` for a lane that names none. Raises EngineUnavailable where the place that it names is empty."""
    if not lane.api_key_env and not lane.api_key_file:
        return NO_KEY
    key = secret(lane)
    if key:
        return key
    where = (
        f"the environment variable {lane.api_key_env}"
        if lane.api_key_env
        else f"the file {lane.api_key_file}"
    )
    raise EngineUnavailable(
        f"lane {lane_name!r} has no key: {where} is empty or not there",
        mend=f"put the provider's key into {where}, or take the lane out of the chains",
    )
