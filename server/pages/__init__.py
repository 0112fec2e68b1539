"""The pages for people: server-rendered HTML that is whole without script, and live with it.

Handlers (overview.py, devices.py, rollouts.py, ...) ask the store and the engine, make a view (frozen
values in words, pure) and render a template of templates/. Nothing here decides anything about
rollouts, and no page shows what a person cannot read: no JSON, no ids without a name.
"""
