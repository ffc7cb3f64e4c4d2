"""Three actors on the stock Redis broker that do nothing but send to the next one."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

URL = os.environ["HOPS_URL"]
dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor
def first() -> None:
    second.send()


@dramatiq.actor
def second() -> None:
    third.send()


@dramatiq.actor
def third() -> None:
    pass
