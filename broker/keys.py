"""Where everything lies in Redis. The scripts build the same names from the same prefix.

laneway:task:<ref>        hash    one task's record (fields: see scripts/prelude.lua)
laneway:ids:<task_id>     set     the workspaces that have a task of that id
laneway:parts:<ref>       set     the refs of a task's sub-tasks
laneway:queue:<queue>     zset    refs that wait, by priority and fair turn
laneway:suspects:<queue>  zset    refs that twice took their worker along; handed out alone
laneway:later:<queue>     zset    refs that wait for a time (microseconds)
laneway:turns:<queue>     hash    fair turns by workspace|priority: the last given; |priority: the one now served
laneway:wake:<queue>      list    at most one token: something waits
laneway:leases            zset    refs in hand, by the end of their lease (microseconds)
laneway:open              zset    refs that are not at their end, by when they were last seen in place
laneway:batches           zset    provider batches that are not done with, since when
laneway:batch:<id>        hash    one of them (fields: broker/batches.py)
laneway:batch:<id>:lines  hash    line → ref|epoch of each task in it that is not settled yet
laneway:parked            zset    refs that wait for a person, since when
laneway:reviewed          zset    refs that a person has ended, since when; as long as their results are kept
laneway:results           zset    refs at their end whose payload and result are still kept, since when
laneway:dead              hash    dead letters by id
laneway:gone:<ref>|<at>   string  epochs of a task that came in then and that Redis has lost, whose calls are booked all
                                  the same; for a day
laneway:watch:<ref>       set     whom to tell when the task ends: reply lists, and task|<ref> that wait for it
laneway:reply:<id>        list    ends, for one reader
laneway:events            stream  facts for accounting
laneway:events:late       stream  of these, entries whose tasks' days are over: they wait to be written together
laneway:lanes             hash    lane → when a node last served it; lane|node → when that node last spoke, with a minus
                                  where its engine makes no tokens
laneway:endpoint:<id>     hash    how a provider's endpoint is, and what it takes (fields: see scripts/prelude.lua)
laneway:tool:<key>        string  what a tool that only reads said, for its time
laneway:rules             hash    limit|scope|period and, under it, file|scope|period → nano-dollars;
                                  killed|scope → since when; closed|scope|period → the window of an overrun
laneway:machines          hash    machine → when it was last heard of
laneway:uptime:<day>      hash    machine → for how long it was on, in microseconds
laneway:sharing           hash    day of machines → the turn of who began to share it out and has not told all of it
laneway:sharing:<day>     hash    whose turn it is to share out that day of machines; lane:<lane> → its machine
laneway:shared            string  the last day up to which machines' days were shared out (accounting/rollup/nightly.py)
laneway:used:<window>     hash    scope → spent and reserved in a day, a month or in all (total)
laneway:held:<window>     hash    scope → of that what is reserved and not yet settled
laneway:rates:<month>     hash    type|lane|purpose|tries, …|successes, …|nano: what calls came to
laneway:alerted:<window>  hash    scope|period|level → when the level was passed
laneway:alerted:trend:…   string  a trend that was told of within the hour
laneway:swept             string  when a process of the fleet last looked after what is lost (scripts/keep.lua)
laneway:batch:<name>:lock string  who works on a batch, or fills one of a lane
laneway:dirty             hash    day → the last entry of the stream that touched it since its rollup
laneway:ledger            string  the id of the ledger that facts went into last (accounting/intake/home.py)
laneway:ingest:lock       string  who writes parts (and :batch, the entries that are being written)
laneway:rollups           zset    large days, offered to be folded (what follows it: accounting/rollup/offers.py)
laneway:alerts            list    alerts that nobody was told of yet (and what follows it: accounting/alerting/tell.py)
"""

PREFIX = "laneway:"
EVENTS = PREFIX + "events"
LATE = PREFIX + "events:late"
LEASES = PREFIX + "leases"
OPEN = PREFIX + "open"
PARKED = PREFIX + "parked"
REVIEWED = PREFIX + "reviewed"
RESULTS = PREFIX + "results"
DEAD = PREFIX + "dead"
LANES = PREFIX + "lanes"
BATCHES = PREFIX + "batches"
RULES = PREFIX + "rules"
SHARING = PREFIX + "sharing"


def task_key(ref: str) -> str:
    return f"{PREFIX}task:{ref}"


def ids_key(task_id: str) -> str:
    return f"{PREFIX}ids:{task_id}"


def parts_key(ref: str) -> str:
    return f"{PREFIX}parts:{ref}"


def tool_result_key(key: str) -> str:
    return f"{PREFIX}tool:{key}"


def queue_key(queue: str) -> str:
    return f"{PREFIX}queue:{queue}"


def suspects_key(queue: str) -> str:
    return f"{PREFIX}suspects:{queue}"


def batch_key(batch: str) -> str:
    return f"{PREFIX}batch:{batch}"


def lines_key(batch: str) -> str:
    return f"{PREFIX}batch:{batch}:lines"


def later_key(queue: str) -> str:
    return f"{PREFIX}later:{queue}"


def wake_key(queue: str) -> str:
    return f"{PREFIX}wake:{queue}"


def reply_key(reader: str) -> str:
    return f"{PREFIX}reply:{reader}"


def used_key(window: str) -> str:
    return f"{PREFIX}used:{window}"


def uptime_key(day: str) -> str:
    return f"{PREFIX}uptime:{day}"


def rates_key(month: str) -> str:
    return f"{PREFIX}rates:{month}"


def held_key(window: str) -> str:
    return f"{PREFIX}held:{window}"


def alerted_key(window: str) -> str:
    return f"{PREFIX}alerted:{window}"
