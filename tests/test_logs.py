"""Every line is JSON, no line holds a secret, no line is waited for."""

import ast
import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import poller
from poller import logs
from poller.logs import catalogue, redaction
from poller.logs.output import Output
from poller.values import Secret

ROOT = Path(poller.__file__).parent
CANARY = "c4n4ry/Secret+word=!"


def run(code: str, *, format: str = "json", level: str = "info", check: bool = True) -> str:
    """Run *code* in a process of its own, logging to stdout; return what it wrote there."""
    head = f"from poller import logs\nlogs.setup({level!r}, {format!r})\nlog = logs.get_logger()\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, cwd=ROOT.parent, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0 or not check
    return str(done.stdout)


def lines(code: str, *, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, level=level).splitlines()]


@pytest.fixture
def known() -> Iterator[None]:
    logs.set_secrets([CANARY])
    yield
    logs.set_secrets([])


# The catalogue.


def emitted() -> Iterator[tuple[str, str, str, set[str]]]:
    """Yield each call of a logger below poller: where, level, name of the event, and keys."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log" | "logger") | ast.Attribute(attr="log" | "_log"),
                        attr="debug" | "info" | "warning" | "error" as level,
                    ),
                    args=[first, *_],
                    keywords=keywords,
                ):
                    where = f"{path.relative_to(ROOT.parent)}:{node.lineno}"
                    name = str(first.value) if isinstance(first, ast.Constant) else ast.unparse(first)
                    yield where, level, name, {word.arg for word in keywords if word.arg}


def test_every_event_that_is_logged_is_in_the_catalogue_with_its_level() -> None:
    calls = list(emitted())

    assert calls
    wrong = [
        f"{where}: {name} ({level})"
        for where, level, name, _ in calls
        if name not in logs.EVENTS or logs.EVENTS[name].level != level
    ]
    assert not wrong, "poller/logs/catalogue.py does not have: " + ", ".join(wrong)


def test_every_key_that_is_logged_is_in_the_catalogue() -> None:
    extra = [
        f"{where}: {name} has no {', '.join(sorted(more))}"
        for where, _, name, keys in emitted()
        if name in logs.EVENTS and (more := keys - set(logs.EVENTS[name].keys.split(", ")) - {"exc_info"})
    ]

    assert not extra, "poller/logs/catalogue.py: " + "; ".join(extra)


def test_names_are_nouns_and_participles() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in logs.EVENTS)


def test_the_catalogue_holds_all_that_the_contract_names() -> None:
    contract = {
        "info": "service_started service_ready service_stopped poll_finished record_delivered route_unblocked route_released guard_chosen "
        "settings_reloaded",
        "warning": "poll_failed record_waiting record_unknown clock_skewed checkpoint_refused",
        "error": "record_dead route_blocked route_held duplicate_found correlation_altered foreign_found database_lost settings_refused",
    }
    for level, names in contract.items():
        assert {name: logs.EVENTS[name].level for name in names.split()} == dict.fromkeys(names.split(), level)


def test_the_page_is_written_from_the_catalogue() -> None:
    page = (ROOT.parent / "docs/logs.md").read_text("utf-8")

    assert page.endswith(catalogue.page()), "run: python -m poller.logs, and put it at the end of docs/logs.md"


# The lines.


def test_a_line_has_its_keys_in_order() -> None:
    text = run("log.info('poll_finished', seconds=1.5, number='INC1', state='ready', key='7', route='helpdesk')")

    line = json.loads(text)
    assert list(line) == ["timestamp", "level", "event", "route", "key", "state", "number", "seconds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_what_is_bound_to_the_context_is_told() -> None:
    (line,) = lines("from structlog.contextvars import bind_contextvars as b\nb(route='r')\nlog.info('poll_finished')")

    assert line["route"] == "r"


@pytest.mark.parametrize(
    "value",
    ["\n{}\r\n", '"},{"level":"error', "\x1b[31mred", "a\u2028b\u2029c\x85d", "\u202eevil", "\ud800 half", "\x00\x7f"],
)
def test_no_value_can_forge_a_line(value: str) -> None:
    text = run(f"log.info('poll_finished', checkpoint={value!r}, more=[{value!r}], **{{'k': {{{value!r}: 1}}}})")

    assert len(text.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text)
    assert json.loads(text)["event"] == "poll_finished"


@pytest.mark.parametrize(
    "value",
    [
        "2**70",
        "float('nan')",
        "b'\\xff'",
        "{1, 2}",
        "object()",
        "{1: 2}",
        "Broken()",
        "[[[[[[[[1]]]]]]]]",
        "ValueError('x')",
    ],
)
def test_logging_never_raises(value: str) -> None:
    code = "class Broken:\n    def __str__(self): raise RuntimeError\n    __repr__ = __str__\n"

    (line,) = lines(f"{code}log.info('poll_finished', new={value})\n")

    assert line["event"] == "poll_finished"


def test_long_values_are_cut() -> None:
    (line,) = lines("log.info('poll_finished', checkpoint='x' * 1_000_000)")

    assert line["checkpoint"] == "x" * 4000 + "… (1000000 characters)"


def test_a_level_that_is_not_wanted_is_not_told_and_can_be_changed_later() -> None:
    told = lines("log.debug('poll_started')\nlogs.setup('debug', 'json')\nlog.debug('poll_started')\n", level="info")

    assert len(told) == 1


def test_on_a_terminal_lines_are_for_people() -> None:
    text = run("log.info('poll_finished', route='helpdesk', checkpoint='\\x1b[31m')", format="console")

    assert "poll_finished" in text
    assert "route=helpdesk" in text
    assert "\x1b" not in text


# Others' lines.


def test_other_libraries_and_warnings_come_in_the_same_shape() -> None:
    told = lines(
        "import logging, warnings\n"
        "logging.getLogger('apscheduler.x').warning('job %s\\nlate', 1)\n"
        "logging.getLogger('odd').error('%d', 'no number')\n"
        "warnings.warn('careful')\n"
    )

    assert [line["event"] for line in told] == ["third_party"] * 3
    assert [line["logger"] for line in told] == ["apscheduler.x", "odd", "py.warnings"]
    assert told[0]["message"] == "job 1\nlate"
    assert "careful" in told[2]["message"]


def test_what_other_libraries_say_at_debug_is_never_told() -> None:
    names = [
        "urllib3.connectionpool",
        "requests_oauthlib.oauth2_session",
        "oauthlib",
        "sqlalchemy.engine",
        "alembic",
        "unheard",
    ]
    code = f"import logging\nfor name in {names}: logging.getLogger(name).debug('token=x')\n"

    assert run(code, level="debug") == ""


def test_a_crash_is_one_line_without_local_variables() -> None:
    code = f"def f():\n    local = '{CANARY}'\n    raise ValueError('broken')\nf()\n"

    text = run(code, check=False)

    line = json.loads(text)
    assert (line["event"], line["level"], line["error"]) == ("crashed", "error", "ValueError")
    assert line["exception"].endswith("ValueError: broken")
    assert CANARY not in text


def test_a_crash_of_a_thread_and_of_a_finaliser_is_a_line() -> None:
    told = lines(
        "import threading\n"
        "def f(): raise ValueError('broken')\n"
        "t = threading.Thread(target=f, name='worker'); t.start(); t.join()\n"
        "class D:\n    def __del__(self): raise RuntimeError('late')\n"
        "d = D(); del d\n"
    )

    assert [(line["event"], line["error"]) for line in told] == [("crashed", "ValueError"), ("crashed", "RuntimeError")]
    assert told[0]["thread"] == "worker"


# Secrets.


def test_secrets_are_hidden_by_the_name_of_their_key() -> None:
    (line,) = lines(
        "log.info('poll_finished', client_secret='abc', headers={'Authorization': 'x', 'n': 1}, token=['y'])"
    )

    assert (line["client_secret"], line["headers"], line["token"]) == (
        redaction.MASK,
        {"Authorization": redaction.MASK, "n": 1},
        redaction.MASK,
    )


@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        quote(CANARY, safe=""),
        quote(CANARY),
        CANARY.encode().hex(),
        json.dumps({"x": CANARY}),
        f"x{CANARY * 3}y",
        *(base64.b64encode(b"user:"[:n] + CANARY.encode() + b"tail").decode() for n in range(6)),
        *(base64.urlsafe_b64encode(b"user:"[:n] + CANARY.encode()).decode() for n in range(6)),
    ],
)
def test_secrets_are_hidden_by_value_in_every_form(form: str, known: None) -> None:
    core = base64.b64encode(CANARY.encode()).decode()[4:16]

    told = json.dumps([redaction.clean("error", form), redaction.clean("reason", [form, {form: form}])])

    assert redaction.MASK in told
    assert CANARY not in told
    assert core not in told
    assert quote(CANARY, safe="") not in told


def test_a_secret_at_the_cut_is_not_told_in_part(known: None) -> None:
    told = redaction.clean("reason", "x" * (redaction.MAX_VALUE - 5) + CANARY + "y" * 100)

    assert isinstance(told, str)
    assert CANARY[:5] not in told


def test_tokens_that_come_and_go_are_hidden_too() -> None:
    logs.hide("fresh-access-token")

    assert redaction.clean("error", "said fresh-access-token") == f"said {redaction.MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2x",
        '{"access_token": "hunter2x"}',
        "Authorization: Bearer hunter2x",
        "https://x/?api_key=hunter2x&a=b",
        "{'client_secret': 'hunter2x'}",
    ],
)
def test_what_looks_like_a_secret_in_others_words_is_hidden(text: str) -> None:
    assert "hunter2x" not in str(redaction.clean("message", text))


def test_ordinary_words_stay() -> None:
    text = 'the token endpoint answered 401; client_secret: use { credential = "name" }'

    assert redaction.clean("error", text) == text


def test_a_secret_object_never_shows() -> None:
    assert CANARY not in json.dumps(redaction.clean("x", [Secret(text=CANARY)]))


# Nobody reads.


def test_a_reader_that_stops_does_not_stop_the_work_and_is_told_later() -> None:
    code = (
        "import time\n"
        "began = time.monotonic()\n"
        "for i in range(60_000): log.info('poll_finished', route='r', new=i)\n"
        "import sys; print('done', time.monotonic() - began, file=sys.stderr, flush=True)\n"
        "sys.stdin.readline()\n"
        "log.info('service_stopped')\nlogs.flush(10); log.info('service_stopped'); logs.flush(10)\n"
    )
    head = "from poller import logs\nlogs.setup('info', 'json')\nlog = logs.get_logger()\n"
    with subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
    ) as process:
        assert process.stderr
        assert process.stdout
        assert process.stdin
        assert process.stderr.readline().startswith("done")  # though nobody has read a line so far
        process.stdin.write("\n")
        process.stdin.close()
        told = [json.loads(line) for line in process.stdout]
        assert process.wait(30) == 0

    news = [line["new"] for line in told if line["event"] == "poll_finished"]
    missing = [line["count"] for line in told if line["event"] == "lines_dropped"]
    assert news == sorted(news)
    assert missing
    assert len(told) - len(missing) + sum(missing) == 60_002


def test_a_reader_that_is_gone_does_not_stop_the_work() -> None:
    code = (
        "import sys, time\n"
        "for i in range(200): log.info('poll_finished', new=i); time.sleep(0.001)\n"
        "logs.flush()\nprint('went on', file=sys.stderr)\n"
    )
    head = "from poller import logs\nlogs.setup('info', 'json')\nlog = logs.get_logger()\n"
    with subprocess.Popen(
        [sys.executable, "-c", head + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT.parent
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()

        assert process.stderr.read() == "went on\n"
        assert process.wait(30) == 0


def test_without_stdout_nothing_is_written_into_whatever_took_its_place(tmp_path: Path) -> None:
    other = tmp_path / "database"
    code = (
        "import os, sys\nfrom poller import logs\n"
        f"descriptor = os.open({str(other)!r}, os.O_CREAT | os.O_WRONLY)\nassert descriptor == 1\n"
        "logs.setup('info', 'json')\nlogs.get_logger().info('poll_finished')\nlogs.flush()\n"
    )

    subprocess.run(["/bin/sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], check=True, cwd=ROOT.parent)

    assert other.read_bytes() == b""


def test_what_was_logged_last_is_written_before_the_process_ends() -> None:
    assert len(lines("for i in range(3000): log.info('poll_finished', new=i)")) == 3000


def test_a_stream_without_a_descriptor_will_do() -> None:
    stream = io.StringIO()
    output = Output(stream, on_dropped=print)

    output.put(b"{}\n")

    assert output.flush(5)
    assert stream.getvalue() == "{}\n"


# Price.


def test_a_line_is_cheap_and_one_that_is_not_told_costs_nothing() -> None:
    code = (
        "import time\n"
        "def cost(n, tell):\n"
        "    best = 9e9\n"
        "    for _ in range(5):\n"
        "        began = time.process_time()\n"
        "        for i in range(n): tell(i)\n"
        "        logs.flush(10)\n"
        "        best = min(best, (time.process_time() - began) / n * 1e6)\n"
        "    return best\n"
        "logs.set_secrets(['one-secret', 'another/secret', 'a third one'])\n"
        "told = cost(2000, lambda i: log.info('record_delivered', route='helpdesk', key=str(i), number='INC0010001', sys_id='0' * 32))\n"
        "silent = cost(20000, lambda i: log.debug('attempt_started', route='helpdesk', key='1'))\n"
        "import os, json; os.write(2, json.dumps([told, silent]).encode())\n"
    )
    head = "from poller import logs\nlogs.setup('info', 'json')\nlog = logs.get_logger()\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, check=True, cwd=ROOT.parent)

    told, silent = json.loads(done.stderr)
    # Twice and more what is measured on an idle machine (25 and 0.2 microseconds): a guard against blunders, not a benchmark.
    assert told < 100
    assert silent < 3
