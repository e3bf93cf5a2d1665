"""
Run by test_interop in an environment of its own, with pysnow and pysnc as their makers published them.

Arguments: host:port of a sandbox that speaks TLS. Prints one JSON object of what the two clients saw.
"""

import json
import sys
from typing import Any

import pysnow  # type: ignore[import-not-found]  # lives in an environment of its own
from pysnc import (  # type: ignore[import-not-found]  # same
    ServiceNowClient,
    ServiceNowClientCredentialsFlow,
    ServiceNowPasswordGrantFlow,
)

HOST = sys.argv[1]
SECRETS = {"client_id": "poller", "client_secret": "sandbox-secret"}
USER, PASSWORD = "svc.poller", "sandbox-password"


def with_pysnow() -> dict[str, Any]:
    client = pysnow.OAuthClient(host=HOST, **SECRETS)
    token = client.generate_token(USER, PASSWORD)
    client.set_token(token)
    incidents = client.resource(api_path="/table/incident")
    made = [
        incidents.create({"short_description": f"snow {count}", "correlation_id": f"snow:{count}"}).one()
        for count in range(5)
    ]
    users = client.resource(api_path="/table/sys_user")
    found = users.get(
        query=pysnow.QueryBuilder().field("user_name").equals("abel.tuter"), fields=["user_name", "email"]
    ).one()
    query = {"short_description": "snow 3"}
    updated = incidents.update(query=query, payload={"urgency": "1"}).one()
    pages = [
        [
            row["correlation_id"]
            for row in incidents.get(
                query="correlation_idSTARTSWITHsnow:^ORDERBYcorrelation_id", limit=2, offset=offset
            ).all()
        ]
        for offset in (0, 2, 4)
    ]
    streamed = list(incidents.get(query="correlation_idSTARTSWITHsnow:", stream=True).all())
    deleted = incidents.delete(query={"short_description": "snow 4"})
    return {
        "token": sorted(token),
        "made": [row["number"] for row in made],
        "user": found,
        "urgency": updated["urgency"],
        "pages": pages,
        "streamed": len(streamed),
        "deleted": deleted["status"],
    }


def with_pysnc() -> dict[str, Any]:
    client = ServiceNowClient(f"https://{HOST}", ServiceNowClientCredentialsFlow(**SECRETS))
    made = []
    for count in range(7):
        record = client.GlideRecord("incident")
        record.initialize()
        record.short_description = f"snc {count}"
        record.correlation_id = f"snc:{count}"
        record.bunk_field = "ignored"
        record.insert()
        made.append(str(record.sys_id))
    one = client.GlideRecord("incident")
    got = one.get(made[2])
    user = client.GlideRecord("sys_user")
    by_name = user.get("user_name", "beth.anglin")
    paged = client.GlideRecord("incident", batch_size=3)
    paged.add_query("correlation_id", "STARTSWITH", "snc:")
    paged.order_by("correlation_id")
    paged.query()
    seen = [str(record.correlation_id) for record in paged]
    missing = client.GlideRecord("incident").get("0" * 32)
    one.urgency = "1"
    one.update()
    long = client.GlideRecord("incident", batch_size=3)
    long.add_query("correlation_id", "IN", ",".join([f"snc:{count}" for count in range(7)] + ["x" * 40] * 300))
    long.query()
    batched = len(list(long))
    many = client.GlideRecord("incident")
    many.add_query("correlation_id", "IN", "snc:5,snc:6")
    many.query()
    many.delete_multiple()
    basic = ServiceNowClient(f"https://{HOST}", ServiceNowPasswordGrantFlow(USER, PASSWORD, **SECRETS)).GlideRecord(
        "incident"
    )
    basic.add_query("correlation_id", "STARTSWITH", "snc:")
    basic.query()
    return {
        "made": len(set(made)),
        "got": [got, str(one.short_description)],
        "user": [by_name, str(user.name)],
        "seen": seen,
        "count": paged.get_row_count(),
        "missing": bool(missing),
        "priority": str(one.priority),
        "batched": batched,
        "left": len(list(basic)),
    }


print(json.dumps({"pysnow": with_pysnow(), "pysnc": with_pysnc()}))
