"""The calls about the audit log and webhooks, a row each; their handlers are in log.py and hooks.py."""

from typing import Final

from slipstream.server.access import Deed
from slipstream.server.api import hooks, log
from slipstream.server.api.call import Page, PageQuery
from slipstream.server.api.route import CLASH, GONE, Route

CALLS: Final = (
    Route(
        "GET",
        "/audit",
        Deed.AUDIT,
        "audit.list",
        "Read the audit log",
        look=log.list_audit,
        query=PageQuery,
        answer=Page[log.AuditRow],
    ),
    Route(
        "GET",
        "/audit/verify",
        Deed.AUDIT,
        "audit.verify",
        "Verify the audit log",
        look=log.verify_audit,
        answer=log.Verification,
    ),
    Route(
        "GET",
        "/webhooks",
        Deed.ADMINISTER,
        "webhook.list",
        "List webhooks",
        look=hooks.list_webhooks,
        answer=Page[hooks.ShownWebhook],
    ),
    Route(
        "POST",
        "/webhooks",
        Deed.ADMINISTER,
        "webhook.add",
        "Add a webhook",
        change=hooks.add_webhook,
        body=hooks.NewWebhook,
        answer=hooks.MadeWebhook,
        status=201,
        refuses=CLASH,
    ),
    Route(
        "DELETE",
        "/webhooks/{webhook}",
        Deed.ADMINISTER,
        "webhook.remove",
        "Remove a webhook",
        change=hooks.remove_webhook,
        refuses=GONE,
    ),
    Route(
        "POST",
        "/webhooks/{webhook}/test",
        Deed.ADMINISTER,
        "webhook.test",
        "Test a webhook",
        change=hooks.send_test,
        refuses=GONE,
    ),
    Route(
        "GET",
        "/webhooks/{webhook}/deliveries",
        Deed.ADMINISTER,
        "webhook.deliveries",
        "What was sent to a webhook",
        look=hooks.list_deliveries,
        query=PageQuery,
        answer=Page[hooks.ShownDelivery],
    ),
)
