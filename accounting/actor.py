"""Accounting's actors: the stream into files all day, the files of the days rolled up at night (a large day by all
nodes); alerts to people."""

from __future__ import annotations

import logging
import sys
import threading
import time

from accounting.alerting import tell
from accounting.alerting.watch import Watch
from accounting.files import ledger
from accounting.intake import aside, ingest
from accounting.rollup import nightly
from accounting.rollup.offers import Offers
from accounting.rollup.shared_rollup import Helper
from broker.ask import ask
from broker.connect import connect
from broker.errors import LanewayError, LedgerError, RedisUnavailable
from broker.keys import EVENTS, LATE
from broker.queue import LaneBroker
from broker.settings import Settings, load
from broker.store import Store

INGEST_EVERY_S = 1.0
BATCHES_A_ROUND = 20
NIGHTLY_EVERY_S = 30.0
#: After a night that failed: what it read, it reads again.
NIGHTLY_AGAIN_S = 600.0
HELP_EVERY_S = 1.0
ALERTS_EVERY_S = 1.0
WATCH_EVERY_S = 10.0

log = logging.getLogger(__name__)


class Accounting:
    """Each method is one round of a clock; what cannot be done now waits where it is and is told in the log."""

    def __init__(
        self, settings: Settings, store: Store, files: ledger.Store, quarantine: ledger.Store
    ) -> None:
        self.settings, self.store, self.files, self.quarantine = settings, store, files, quarantine
        self.client = store.client
        self.offers = Offers(store.client, settings.fleet.lease_s)
        self.helper = Helper(self.offers, files)
        self.watch = Watch(store, settings.alerts.task_p95_usd)
        self.rolled: str | None = None
        self.rests_until_s = 0.0  # of this machine's monotonic clock

    def ingest(self) -> None:
        try:
            for key in (EVENTS, LATE):
                for _ in range(BATCHES_A_ROUND):
                    if not self._is_due(key) or not self._drain(key):
                        break
        except (LedgerError, RedisUnavailable) as error:
            log.error("the events wait in the stream: %s", error)

    def _is_due(self, key: str) -> bool:
        return ask(lambda: ingest.due(self.client, self.settings, key=key))

    def _drain(self, key: str) -> int:
        """One batch. How many entries it had."""
        limit = self.settings.fleet.ingest_flush_events
        done = ask(lambda: ingest.drain(self.client, self.files, self.quarantine, limit=limit, key=key))
        log.info("%d events into %d parts", done.events, done.parts)
        return done.entries + done.late

    def nightly(self) -> None:
        if time.monotonic() < self.rests_until_s:
            return
        try:
            self.rolled = ask(
                lambda: nightly.run_if_due(
                    self.client,
                    self.files,
                    self.quarantine,
                    self.settings,
                    self.rolled,
                    offers=self.offers,
                )
            )
        except RedisUnavailable as error:
            log.error("the rollup is tried again in %.0f s: %s", NIGHTLY_EVERY_S, error)
        except LedgerError as error:
            self.rests_until_s = time.monotonic() + NIGHTLY_AGAIN_S
            log.error("the rollup is tried again in %.0f s: %s", NIGHTLY_AGAIN_S, error)

    def help_others(self, stopping: threading.Event) -> None:
        try:
            self.helper.round(stopping)
        except (LedgerError, RedisUnavailable) as error:
            log.error("a day is left to other nodes: %s", error)

    def take_alerts(self) -> None:
        try:
            ask(lambda: tell.take(self.store, self.settings.alerts))
        except RedisUnavailable as error:
            log.error("alerts wait in Redis: %s", error)

    def tell_people(self) -> None:
        """On a clock of its own: whoever is slow to be told holds up neither the log nor a switch."""
        try:
            ask(lambda: tell.tell(self.store, self.settings.alerts))
        except RedisUnavailable as error:
            log.error("who is to be told waits in Redis: %s", error)

    def watch_trends(self) -> None:
        try:
            ask(self.watch.round)
        except RedisUnavailable as error:
            log.error("what goes on for minutes is not seen just now: %s", error)


def serve() -> LaneBroker:
    """The broker for ``dramatiq``. Ends the process with the mend where this node cannot keep the ledger."""
    try:
        settings = load()
        files = ledger.open_store(settings)
        files.check()
        store = connect(settings)
    except LanewayError as error:
        sys.exit(f"accounting cannot run on this node: {error}")
    accounting = Accounting(settings, store, files, aside.place(settings))
    broker = LaneBroker(store)
    broker.every("accounting-ingest", INGEST_EVERY_S, accounting.ingest)
    broker.every("accounting-nightly", NIGHTLY_EVERY_S, accounting.nightly)
    broker.every("accounting-help", HELP_EVERY_S, lambda: accounting.help_others(broker.stopping))
    broker.every("accounting-alerts", ALERTS_EVERY_S, accounting.take_alerts)
    broker.every("accounting-tell", ALERTS_EVERY_S, accounting.tell_people)
    broker.every("accounting-watch", WATCH_EVERY_S, accounting.watch_trends)
    return broker
