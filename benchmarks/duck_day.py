"""A day's rollup in DuckDB's own SQL: what ours is measured against, and an oracle for its rows.

Nearly all facts come once, and nearly all attempts are told of once. So a narrow pass looks for the tasks of which that
is not sure: the numbers of a task's facts set bits of a mask, its attempts those of two more by their hash, and where
a mask has fewer bits than there were facts, one may have come twice. Only those few tasks are told apart and put in
order in full; the facts of all others go by as they are. A task that is doubtful without need costs time, nothing else.

The rows are ours in every column, in no order, but for three corners. Two facts of a task that share kind, number and
moment are taken for the same one, whatever else they say, and of two such words on one attempt either may be the last;
ours tells them apart and goes by what they say. A task of which nothing is known but its share of a machine's day has
no row. Of a task's calls no more than 100,000 are asked for their lane and model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb

from accounting.files import schema
from accounting.rollup.drafts import GROUP_ROWS
from accounting.rollup.fold import COLUMNS
from broker.purpose import MODEL_CALLS, PART_OF, TOOL

_TASK = "workspace, task_id, submitted_at"
_MOST = 100_000  # calls of one task
_CALL_TOKENS = (*schema.TOKENS, "cache_write_1h_tokens")


def _listed(pieces: Iterable[str]) -> str:
    return ", ".join(pieces)


def _turn(*columns: str) -> str:
    """What puts rows in the order of these columns, as one value: it is compared in half the time of a struct."""
    keys = _listed(f"{column}, 'asc nulls last'" for column in columns)
    return f"create_sort_key({keys})"


def _nanos(usd: str) -> str:
    """An amount as a real number without the error that a fraction of a dollar would bring."""
    return f"({usd}::decimal(38, 9) * 1000000000)::bigint::double"


def _one_of(words: Iterable[str]) -> str:
    return f"in ({_listed(repr(word) for word in sorted(words))})"


#: ``fact`` is the row's place among all: the number of its file and of its row in it.
_EVENTS = """
create view events as
select {columns}, file_index << 40 | file_row_number as fact from read_parquet('{events}', hive_partitioning = false)
"""

_DOUBTFUL = """
create temp table doubtful as
select hash(task_id) as task from events group by task
having bit_count(bit_or(1::ubigint << (seq % 64))) <> count(*)
    or bit_count(bit_or(1::ubigint << (hash(kind, attempt_id) % 64)) filter (attempt_id is not null))
        <> count(attempt_id)
    and bit_count(bit_or(1::ubigint << (hash(kind, attempt_id) // 64 % 64)) filter (attempt_id is not null))
        <> count(attempt_id)
"""

#: Facts that came before, and what was said of an attempt before its last word.
_STALE = f"""
create temp table stale as
select fact from (
    select {_TASK}, seq, told_at, kind, attempt_id, fact, hash(task_id) as task from events
) semi join doubtful using (task)
qualify if(
    attempt_id is null,
    row_number() over (partition by {_TASK}, seq, told_at, kind, attempt_id),
    row_number() over (partition by {_TASK}, kind, attempt_id order by seq desc, told_at desc)
) > 1
"""

_PART = f"create type part as enum ({_listed(repr(part) for part in schema.PARTS)})"

_FACTS = "create view facts as from events anti join stale using (fact)"

_SHARES = f"""
create temp table shares as
select {_TASK}, attempt_id, cost_usd as share_usd from facts where kind = 'allotted'
"""

_CALLS = f"""
create temp table calls as
select {_TASK}, attempt_id, nullif(parent_attempt_id, '') as parent_attempt_id, hop, coalesce(lane, '') as lane,
    coalesce(engine, '') as engine, coalesce(model, '') as model, nullif(model_revision, '') as model_revision, purpose,
    started_at, ended_at, told_at as settled_at, queue_wait_ms, latency_ms, time_to_first_token_ms,
    {_listed(_CALL_TOKENS)},
    case when not unpriced then cost_usd - gate_usd + coalesce(share_usd, 0) end::decimal(18, 9) as cost_usd,
    marginal_usd, nullif(price_ref, '') as price_ref, batch, nullif(gate, '') as gate, nullif(verdict, '') as verdict,
    nullif(failure, '') as failure, settled, gate_usd, avoided_usd,
    not (lane = '' and engine in ('dispatcher', 'gate')) as is_call,
    {_turn("hop", "started_at", "attempt_id")} as turn,
    case purpose {" ".join(f"when '{purpose}' then '{part}_usd'" for purpose, part in PART_OF.items())}
        else 'inference_usd' end::part as part
from facts left join shares using ({_TASK}, attempt_id)
where kind = 'attempted'
"""

_ROUTINGS = f"""
create view routings as
select {_TASK}, seq, told_at, cost_usd from facts where kind = 'routed' and cost_usd <> 0
"""

#: What a machine of ours did beside the calls.
_BESIDE = f"""
    '' as lane, '' as model, 0.0::double as queue_wait_ms, 0.0::double as latency_ms,
    {_listed(f"0 as {name}" for name in _CALL_TOKENS)}, false as batch, true as settled
"""

_ATTEMPTS = f"""
select {_listed(schema.ATTEMPTS.names)} from calls
union all by name
select workspace, attempt_id || '-gate' as attempt_id, attempt_id as parent_attempt_id, task_id, hop, 'gate' as engine,
    'judge' as purpose, ended_at as started_at, ended_at, settled_at, gate_usd as cost_usd, gate_usd as marginal_usd,
    {_BESIDE}
from calls where gate_usd <> 0
union all by name
select workspace, task_id || '-routing-' || seq as attempt_id, task_id, 0 as hop, 'dispatcher' as engine,
    'embed' as purpose, told_at as started_at, told_at as ended_at, told_at as settled_at, cost_usd,
    cost_usd as marginal_usd, {_BESIDE}
from routings
"""

#: What the facts of a task say that are no calls: mostly the last of some kinds.
_TOLD = f"""
create temp table told as
select {_TASK},
    arg_max({{'mode': mode, 'workflow': workflow, 'pipeline': pipeline, 'user_id': user_id, 'type': task_type,
        'parent': parent_task_id}}, turn) filter (kind = 'submitted') as submitted,
    arg_max({{'type': task_type, 'category': category, 'by': "by", 'confidence': confidence,
        'root': root_task_id}}, turn)
        filter (kind = 'routed') as routed,
    arg_max({{'finished_at': case when kind = 'finished' then told_at end}}, turn)
        filter (kind in ('resumed', 'finished')) as ended,
    arg_max({{'status': status}}, turn) filter (kind in ('parked', 'resumed', 'finished')) as moved,
    arg_max({{'ok': succeeded}}, turn)
        filter (kind in ('resumed', 'finished') or kind = 'rated' and succeeded is not null) as judged,
    arg_max(succeeded, turn) filter (kind = 'rated') as happy,
    arg_max({{'usd': value_usd}}, turn)
        filter (kind = 'submitted' or kind = 'rated' and value_usd is not null) as valued,
    arg_min(lane, turn) filter (kind = 'routed' and lane <> '') as first_lane,
    arg_max(lane, turn)
        filter (kind in ('routed', 'escalated') or kind in ('resumed', 'finished') and lane <> '') as final_lane,
    count(*) filter (kind = 'escalated') as hops,
    coalesce(sum(cost_usd) filter (kind = 'routed'), 0) as of_routings_usd
from (select *, {_turn("seq", "told_at")} as turn from facts where kind not in ('attempted', 'allotted'))
group by {_TASK}
"""

#: What the calls of a task sum to; they take turns by hop, start and id. ``last_lanes`` go with ``last_models``.
_CALLED = f"""
create temp table called as
select {_TASK}, count(*) as attempts, min(started_at) as started_at,
    count(*) filter (purpose {_one_of(MODEL_CALLS)}) as llm_calls, count(*) filter (purpose = '{TOOL}') as tool_calls,
    {_listed(f"sum({name})::bigint as {name}" for name in schema.TOKENS)},
    {_listed(f"sum(cost_usd) filter (part = '{part}') as {part}" for part in schema.PARTS)},
    sum(avoided_usd) as avoided_usd, sum(gate_usd) as of_gates_usd, bool_or(batch) as batch,
    sum(queue_wait_ms) as queue_wait_ms,
    count(*) - count(cost_usd) as unpriced_calls, count(*) filter (not settled) as unsettled_calls,
    arg_max_null(time_to_first_token_ms, turn) filter (purpose {_one_of(MODEL_CALLS)}) as time_to_first_token_ms,
    arg_min(lane, turn, {_MOST}) filter (lane <> '') as all_lanes,
    arg_min(model, turn, {_MOST}) filter (model <> '' and purpose {_one_of(MODEL_CALLS)}) as all_models,
    arg_max(lane, turn, {_MOST}) filter (is_call) as last_lanes,
    arg_max(model, turn, {_MOST}) filter (is_call) as last_models
from calls group by {_TASK}
"""

_COUNTS = ("attempts", "llm_calls", "tool_calls", "unpriced_calls", "unsettled_calls", *schema.TOKENS)
_ADDED = {"validation_usd": " + coalesce(of_gates_usd, 0)", "routing_usd": " + coalesce(of_routings_usd, 0)"}

#: ``model``, ``happy`` and the two sums of what was beside the calls are none of its columns; the day's sums are made
#: with them.
_TASKS = f"""
create temp table tasks as
with used as (
    from told full join called using ({_TASK})
), once as (
    select * replace (
            {_listed(f"(coalesce({part}, 0){_ADDED.get(part, '')})::decimal(18, 9) as {part}" for part in schema.PARTS)}
        ),
        coalesce(list_filter(all_lanes, lambda one, number: list_position(all_lanes, one) = number), [])
            as lanes,
        coalesce(list_filter(all_models, lambda one, number: list_position(all_models, one) = number), [])
            as models
    from used
), summed as (
    select * replace (coalesce(nullif(final_lane, ''), lanes[-1], '') as final_lane),
        ({" + ".join(schema.PARTS)})::decimal(18, 9) as cost_usd
    from once
)
select {_TASK}, started_at, ended.finished_at as finished_at, coalesce(submitted.workflow, '') as workflow,
    coalesce(submitted.pipeline, '') as pipeline, coalesce(submitted.user_id, '') as user_id,
    coalesce(nullif(routed.type, ''), submitted.type, '') as task_type, coalesce(routed.category, '') as category,
    coalesce(submitted.mode, '') as mode,
    coalesce(nullif(moved.status, ''), if(attempts > 0, 'running', 'queued')) as status, judged.ok as succeeded,
    nullif(routed.by, '') as classified_by, routed.confidence as confidence,
    coalesce(first_lane, lanes[1], '') as first_lane, final_lane, lanes, models, coalesce(hops, 0) as hops,
    {_listed(f"coalesce({name}, 0) as {name}" for name in _COUNTS)},
    cost_usd, {_listed(schema.PARTS)},
    case when cost_usd <> 0 then {_nanos("(cost_usd - inference_usd)")} / {_nanos("cost_usd")} end as overhead_share,
    coalesce(avoided_usd, 0)::decimal(18, 9) as avoided_usd, coalesce(batch, false) as batch,
    coalesce(queue_wait_ms, 0) as queue_wait_ms,
    (epoch_us(ended.finished_at) - epoch_us(submitted_at)) / 1000 as latency_ms,
    time_to_first_token_ms,
    valued.usd as value_usd, nullif(submitted.parent, '') as parent_task_id, nullif(routed.root, '') as root_task_id,
    coalesce(last_models[list_position(last_lanes, final_lane)], '') as model,
    coalesce(of_gates_usd, 0) as of_gates_usd, coalesce(of_routings_usd, 0) as of_routings_usd, happy
from summed
"""

_KEYS = "workspace, pipeline, task_type, lane, model"
_COUNTED = tuple(name for name in schema.DAILY.names if schema.DAILY.field(name).type == schema.COUNT)

_DAILY = f"""
with of_tasks as (
    select workspace, pipeline, task_type, final_lane as lane, model, count(*) as tasks, count(succeeded) as judged,
        count(*) filter (succeeded) as successes, count(happy) filter (root_task_id is null) as rated,
        count(*) filter (happy and root_task_id is null) as satisfied,
        count(root_task_id) as part_tasks, count(succeeded) filter (root_task_id is not null) as part_judged,
        count(*) filter (succeeded and root_task_id is not null) as part_successes,
        sum(of_gates_usd) as validation_usd, sum(of_routings_usd) as routing_usd
    from tasks group by all
), of_calls as (
    select workspace, pipeline, task_type, if(is_call, calls.lane, final_lane) as lane,
        if(is_call, calls.model, tasks.model) as model, count(*) filter (is_call) as attempts,
        {_listed(f"sum(calls.{name}) filter (is_call) as {name}" for name in schema.TOKENS)},
        {_listed(f"sum(calls.cost_usd) filter (part = '{part}') as {part}" for part in schema.PARTS)}
    from calls join tasks using ({_TASK}) group by all
), arrivals as (
    select {_TASK}, lane, arg_min(model, turn) as model from calls where lane <> '' group by {_TASK}, lane
), of_arrivals as (
    select workspace, pipeline, task_type, arrivals.lane as lane, arrivals.model as model, count(*) as visits
    from arrivals join tasks using ({_TASK}) group by all
), all_of_them as (
    select {_KEYS},
        {_listed(f"coalesce(sum({name}), 0)::bigint as {name}" for name in _COUNTED)},
        {_listed(f"coalesce(sum({part}), 0)::decimal(18, 9) as {part}" for part in schema.PARTS)}
    from (from of_tasks union all by name from of_calls union all by name from of_arrivals) group by {_KEYS}
)
select *, ({" + ".join(schema.PARTS)})::decimal(18, 9) as cost_usd from all_of_them
"""


def roll(events: str, folder: Path, *, threads: int = 1) -> None:
    """Writes ``tasks.parquet``, ``attempts.parquet`` and ``daily.parquet`` of the day into the folder, which is there.

    ``events`` is a glob of the day's parts. Raises duckdb.Error where they cannot be read or the files not be written.
    """
    with duckdb.connect(config={"threads": threads, "preserve_insertion_order": False}) as database:
        database.execute("set timezone = 'UTC'")
        database.execute("set parquet_metadata_cache = true")  # each part is opened half a dozen times
        # All joins have their small side on the right, and DuckDB guesses wrong how many rows are left on the other.
        database.execute("set disabled_optimizers = 'build_side_probe_side'")
        names = _listed('"at" as told_at' if name == "at" else f'"{name}"' for name in COLUMNS)
        database.execute(_EVENTS.format(columns=names, events=events))
        for statement in (_PART, _DOUBTFUL, _STALE, _FACTS, _SHARES, _CALLS, _ROUTINGS):
            database.execute(statement)
        _write(database, _ATTEMPTS, schema.ATTEMPTS, folder / "attempts.parquet")
        for statement in (_CALLED, _TOLD, _TASKS, "drop table told", "drop table called"):
            database.execute(statement)
        _write(database, "from tasks", schema.TASKS, folder / "tasks.parquet")
        _write(database, _DAILY, schema.DAILY, folder / "daily.parquet")


def _write(database: duckdb.DuckDBPyConnection, rows: str, columns: Any, path: Path) -> None:
    names = _listed(columns.names)
    query = rows if rows.startswith("from") else f"from ({rows})"
    database.execute(
        f"copy (select {names} {query}) to '{path}'"
        f" (format parquet, compression zstd, compression_level 1, parquet_version v2, row_group_size {GROUP_ROWS})"
    )
