"""
Every event that poller logs: what it means, and what to do about it.

Names are ``noun_participle`` and stable: alarms are built on them. ``docs/logs.md`` is written from this table by
``python -m poller.logs``, and a test holds code, table and page together.
"""

from __future__ import annotations

from typing import NamedTuple

_NOTHING = "Nothing."
_STEP = "Nothing; a step, for looking closely."


class EventSpec(NamedTuple):
    """One event."""

    #: ``debug``, ``info``, ``warning``, ``error``; ``any``: as the other library had it.
    level: str
    #: Besides ``timestamp``, ``level`` and ``event``. Not every line has all of them.
    keys: str
    meaning: str
    do: str


EVENTS: dict[str, EventSpec] = {
    # The daemon.
    "service_started": EventSpec("info", "version, routes, pid", "The daemon begins; settings are valid.", _NOTHING),
    "service_ready": EventSpec(
        "info", "version, routes", "Database and threads are up; polls run. Says nothing of any remote.", _NOTHING
    ),
    "service_stopped": EventSpec(
        "info",
        "signal, unfinished",
        "The daemon ends after a signal; `unfinished` attempts were still on the wire.",
        "Nothing: what is unfinished is looked up at the next start.",
    ),
    "daemon_stuck": EventSpec(
        "error",
        "parts",
        "A thread of the daemon makes no progress; the watchdog is no longer fed, so systemd restarts it.",
        "If it comes again: look at the database and the disk, and report it.",
    ),
    "crashed": EventSpec(
        "error",
        "route, thread, error, exception",
        "A fault in poller itself that nobody foresaw. Nothing is lost by it.",
        "Report it with this line.",
    ),
    "server_started": EventSpec("info", "listen, tls", "The HTTP ingress answers from now on.", _NOTHING),
    "server_stopped": EventSpec(
        "info", "listen", "The HTTP ingress accepts nobody there any more; what was under way was answered.", _NOTHING
    ),
    "server_failed": EventSpec(
        "error",
        "error",
        "The ingress cannot listen where the settings say; the daemon ends with exit code 69.",
        "See who has the address (`ss -ltnp`), or change `server.listen`.",
    ),
    "request_answered": EventSpec(
        "any",
        "route, method, endpoint, status, client, peer, seconds, why",
        "The access line of the ingress: one request; `why` says what a refusal was about, and never what was in it. "
        "A warning from 500 on; health, metrics and the like at debug.",
        "A client with many 401 or 403: its credentials or scopes. 429: see `requests_per_minute`. 503: see the lines before.",
    ),
    "handshake_failed": EventSpec("debug", "peer, error", "A client could not agree on TLS with us.", _STEP),
    "records_pushed": EventSpec(
        "info",
        "route, new, known, changed, malformed, requests",
        "What was pushed is committed; `requests` were answered together.",
        _NOTHING,
    ),
    "settings_reloaded": EventSpec("info", "changed", "SIGHUP: the new settings are in force.", _NOTHING),
    "settings_refused": EventSpec(
        "error",
        "problems",
        "SIGHUP: the new settings are wrong; the last good ones stay in force.",
        "Correct the lines named; send SIGHUP.",
    ),
    "settings_warning": EventSpec(
        "warning",
        "problem",
        "The settings hold something that should not stay so, such as a secret that others can read.",
        "See `problem`.",
    ),
    "certificate_reloaded": EventSpec(
        "info",
        "files",
        "The files under `tls` have changed; new connections use what is in them now.",
        _NOTHING,
    ),
    "certificate_refused": EventSpec(
        "warning",
        "error",
        "The files under `tls` have changed and cannot be used as they are; what was loaded before stays in use.",
        "If it is not followed by `certificate_reloaded`: put the file named right. A restart would fail.",
    ),
    "sandbox_started": EventSpec(
        "info", "url, helpdesk", "The stand-in ServiceNow and help desk listen.", "Nothing; not for production."
    ),
    # Polls.
    "poll_started": EventSpec("debug", "route, checkpoint", "A poll begins.", _STEP),
    "poll_skipped": EventSpec(
        "debug", "route, due_at", "A poll is left out: the source asked for a pause, or failed a moment ago.", _STEP
    ),
    "page_received": EventSpec(
        "debug", "route, new, known, changed, malformed", "One page of a poll is committed.", _STEP
    ),
    "poll_finished": EventSpec(
        "info",
        "route, new, known, changed, malformed, pages, seconds, checkpoint",
        "A whole poll went well; the checkpoint is where it says.",
        _NOTHING,
    ),
    "poll_failed": EventSpec(
        "warning",
        "route, error, failures, due_at",
        "The source did not answer, or not in its own form. The checkpoint stays; it is polled again at `due_at`.",
        "If it goes on: see `error`; `poller check` asks the source once.",
    ),
    "checkpoint_refused": EventSpec(
        "warning",
        "route, value",
        "A record lies in the future by the source's own clock. It is taken, but the checkpoint does not follow it.",
        "Look at the record, or at the source's clock.",
    ),
    "file_failed": EventSpec(
        "error",
        "file, folder, error",
        "A file of a source `directory` cannot be read. It is moved to `folder`; the other files go on.",
        "See `error`; mend the file, or the settings, and put it back.",
    ),
    "file_skipped": EventSpec(
        "warning",
        "file, folder",
        "Something in the folder of a source `directory` is no plain file, such as a link or a pipe; it is left alone.",
        "Take it away, or put a plain file in its place.",
    ),
    # Records.
    "record_received": EventSpec("debug", "route, key", "A record was seen for the first time and is stored.", _STEP),
    "record_malformed": EventSpec(
        "warning",
        "route, key, error",
        "A record could not be read; it is kept as a dead letter, and the rest of its page goes on.",
        "See `poller explain ROUTE KEY`; correct the record or the expressions.",
    ),
    "record_ready": EventSpec("debug", "route, key, state, reason", "Look-ups are done and the body is frozen.", _STEP),
    "record_pending": EventSpec("debug", "route, key, state, reason", "The record is to be looked up anew.", _STEP),
    "record_settled": EventSpec("debug", "route, key, state, reason", "A delivery went into `state`.", _STEP),
    "record_delivered": EventSpec(
        "info",
        "route, key, correlation_id, number, sys_id, attempts, seconds, learnt, operation",
        "`create`: the incident exists and is bound to the record; `update`, `send`, `reply`: the receiver has confirmed. "
        "`learnt`: from the `response`, by `lookup`, or by the `sweep`; `seconds` since the record was first seen.",
        _NOTHING,
    ),
    "record_waiting": EventSpec(
        "warning",
        "route, key, attempts, error, due_at",
        "Surely not delivered; tried again at `due_at`.",
        "If many wait: see `error`.",
    ),
    "record_unknown": EventSpec(
        "warning",
        "route, key, attempts, error, due_at, hint",
        "It may or may not have been delivered. It is looked up, and sent again only when that is safe, at `due_at` at the earliest.",
        "Nothing: it settles by itself.",
    ),
    "record_dead": EventSpec(
        "error",
        "route, key, attempts, error",
        "A dead letter: poller will not try again by itself.",
        "See `poller explain ROUTE KEY`; remove the cause; then `poller retry` or `poller skip`.",
    ),
    "record_skipped": EventSpec(
        "info",
        "route, key, operation, reason",
        "Not delivered, on purpose: `baseline`, an operator's word, or not needed, such as an update of an incident that is closed.",
        _NOTHING,
    ),
    "record_revived": EventSpec(
        "info", "route, key", "A dead record came again in another version and is tried again.", _NOTHING
    ),
    "attempt_started": EventSpec(
        "debug", "route, key, correlation_id, attempts", "A request may be on the wire from now on.", _STEP
    ),
    "attempt_finished": EventSpec(
        "debug", "route, key, correlation_id, attempts, outcome, status, seconds", "An attempt has its outcome.", _STEP
    ),
    "deliveries_taken_over": EventSpec(
        "info",
        "route, state, count",
        "At a start, deliveries that an earlier run left in doubt or in hand were taken over.",
        "Nothing: they are looked up before anything is sent again.",
    ),
    "field_altered": EventSpec(
        "warning",
        "route, key, correlation_id, number, field, kind",
        "A field came back otherwise than it was sent (`cut`, `changed`, `missing`). Told once for each field.",
        "Look at the instance's business rules, or make the template shorter.",
    ),
    "text_cut": EventSpec(
        "warning",
        "route, key, field, reason",
        "A text was longer than its column and was cut, with a mark; `reason` says where the whole is. Told once for each field.",
        "Make the template shorter, or the column longer.",
    ),
    "column_hidden": EventSpec(
        "warning",
        "table, column",
        "The integration user may not read a column, so what hangs on it is left out. Told once for each table.",
        'Let it read the column, or take `inactive = "unknown"` out of the settings.',
    ),
    # Routes and remotes.
    "route_blocked": EventSpec(
        "error",
        "route, error, due_at",
        "The sink refuses the whole route (credentials, rights, table). One record probes from time to time; nothing is buried.",
        "Remove what `error` names; it then goes on by itself.",
    ),
    "route_unblocked": EventSpec("info", "route, seconds", "The sink takes records of this route again.", _NOTHING),
    "route_held": EventSpec(
        "error",
        "route, reason, error",
        "No creates on this route: `flood`, `canary`, `lookup_blind`, `clock`, `correlation_altered`, `database_lost`. Polling goes on.",
        "See `reason` and the README; `poller status` says whether it lifts by itself or waits for `poller release ROUTE`.",
    ),
    "route_released": EventSpec(
        "info", "route, reason, seconds", "A hold is lifted, by itself or by an operator.", _NOTHING
    ),
    "remote_paused": EventSpec(
        "warning",
        "remote, error, failures, due_at",
        "A remote as a whole does not answer or asked for a pause; everything for it waits, and one request probes.",
        "If it goes on: ask whoever runs the remote.",
    ),
    "remote_resumed": EventSpec("info", "remote", "The remote answers again.", _NOTHING),
    "guard_chosen": EventSpec(
        "info",
        "route, guard, why",
        "What keeps an unknown outcome from becoming a second incident: `sys_id` or `settle`.",
        _NOTHING,
    ),
    "clock_skewed": EventSpec(
        "warning",
        "remote, route, seconds",
        "The remote's clock and ours differ; waits are widened by that much.",
        "Set the clock (NTP).",
    ),
    # Callers of the ingress.
    "keys_fetched": EventSpec("debug", "count", "The issuer's keys were fetched; so many are fit for use.", _STEP),
    "keys_failed": EventSpec(
        "warning",
        "error, usable",
        "The issuer's keys could not be had. The last good ones (`usable`) stay in use, until `server.auth.stale` is over.",
        "If it goes on: see `error`; ask whoever runs the identity provider. Callers get 503 once `usable` is 0.",
    ),
    "introspection_failed": EventSpec(
        "warning",
        "error, calls",
        "The provider did not say whether a token is valid; its caller got 503. Told once a minute at most: `calls` since the last line.",
        "See `error`; 401 there is about our own client_id and client_secret.",
    ),
    "client_refused": EventSpec(
        "warning",
        "client, peer",
        "A wrong secret, or a client that is not in the settings (`client` is left out then).",
        "If it goes on: somebody guesses, or a client has an old secret.",
    ),
    "token_issued": EventSpec("debug", "client", "Our own endpoint has handed out an access token.", _STEP),
    "token_refused": EventSpec("debug", "why", "A bearer token is not valid; its caller got 401.", _STEP),
    # What should never happen.
    "duplicate_found": EventSpec(
        "error",
        "route, key, correlation_id, sys_ids",
        "Two or more incidents have one correlation_id. The oldest stays bound; none is deleted.",
        "Close the others by hand; report it with `poller explain`.",
    ),
    "correlation_altered": EventSpec(
        "error",
        "route, key, correlation_id, sys_ids",
        "The instance changed or dropped our correlation_id. The incident is bound; the route is held, since creates are unprotected.",
        "Find the business rule that does it; then `poller release ROUTE`.",
    ),
    "foreign_found": EventSpec(
        "error",
        "correlation_id, sys_ids",
        "Incidents bear our prefix, and no record of ours explains them.",
        "Another installation with the same `correlation_prefix`, or a restored database: settle which.",
    ),
    "incident_missing": EventSpec(
        "warning",
        "route, key, correlation_id, number, sys_id",
        "An incident that was delivered is gone. It is not made again.",
        "Ask who deleted it.",
    ),
    "database_lost": EventSpec(
        "error",
        "route, error, seconds, looked_up_again, correlation_id, sys_ids",
        "The database is older than what was sent: it was lost, or a backup was restored. Creates are held until that is safe.",
        'See the README, "After a lost database".',
    ),
    "database_failed": EventSpec(
        "error",
        "error, unsettled",
        "The database does not answer; poller asks again and sends nothing meanwhile.",
        "Look at the disk or at PostgreSQL.",
    ),
    # Upkeep.
    "sweep_finished": EventSpec(
        "info",
        "instance, incidents, doubled, foreign, missing, seconds",
        "The regular look for duplicates is done.",
        _NOTHING,
    ),
    "sweep_failed": EventSpec(
        "warning",
        "instance, error",
        "The regular look for duplicates got no answer; it is made again at its next time.",
        "See `error`.",
    ),
    "retention_finished": EventSpec(
        "info", "payloads, seconds", "Contents older than `retention.payloads` were deleted.", _NOTHING
    ),
    "operator_acted": EventSpec(
        "info",
        "act, route, key, who, reason, count",
        "Somebody retried, skipped, rewound or released; also kept in the database.",
        _NOTHING,
    ),
    "lines_dropped": EventSpec(
        "warning",
        "count",
        "Nobody read stdout for a while; so many lines are missing before this one. The work itself went on.",
        "Look at the journal, or at what reads stdout.",
    ),
    "third_party": EventSpec(
        "any", "logger, message, exception", "Another library, or Python's warnings, said `message`.", "See `message`."
    ),
}


def page() -> str:
    """Return the table of ``docs/logs.md``."""
    rows = ["| name | level | keys | what it means | what to do |", "| --- | --- | --- | --- | --- |"]
    for name, spec in EVENTS.items():
        keys = " ".join(f"`{key}`" for key in spec.keys.split(", "))
        rows.append(f"| `{name}` | {spec.level} | {keys} | {spec.meaning} | {spec.do} |")
    return "\n".join(rows) + "\n"
