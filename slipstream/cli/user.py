"""`slipstream user`: who may operate a server, as clients of the operators' door."""

from pathlib import Path

import click

from slipstream.cli.operator_client import Client, account_options, echo_json, echo_secret, place
from slipstream.cli.password import read_password
from slipstream.delta.errors import UsageError

FILE = click.Path(path_type=Path, dir_okay=False)
ROLE = click.Choice(["viewer", "operator", "approver", "admin"])


@click.group()
def user() -> None:
    """Add, list and remove users and their API tokens."""


@user.command()
@click.argument("name", metavar="NAME")
@click.option("--role", type=ROLE, required=True, help="Each may do what those before it may.")
@click.option(
    "--password-file",
    type=FILE,
    help="Its first line is the password; else it is asked for. Secrets are not arguments.",
)
@click.option("--program", is_flag=True, help="No password: it has tokens and cannot log in.")
@account_options
def add(
    client: Client, as_json: bool, name: str, role: str, password_file: Path | None, program: bool
) -> None:
    """Add the user NAME."""
    if program and password_file is not None:
        raise UsageError("a program has no password", where="--program, --password-file")
    password = None if program else read_password(password_file, confirm=True)
    made = client.change("POST", "/users", {"name": name, "role": role, "password": password})
    if as_json:
        echo_json(made)
    else:
        click.echo(f"{name}: {role}" + (", by tokens alone" if program else ", can log in"))


@user.command("list")
@account_options
def list_users(client: Client, as_json: bool) -> None:
    """List users and tokens; without the role admin one's own tokens."""
    admin = client.get("/session")["role"] == "admin"
    users = client.get("/users")["items"] if admin else []
    tokens = client.get("/tokens")["items"]
    if as_json:
        echo_json({"users": users, "tokens": tokens})
        return
    for one in users:
        click.echo(f"{one['name']:<32}{one['role']:<10}" + ("logs in" * one["can_log_in"]))
    for one in tokens:
        click.echo(f"token {one['id']:<6}{one['user']:<20}{one['role']:<10}{one['name']}")


@user.command()
@click.argument("name", metavar="NAME")
@account_options
def remove(client: Client, as_json: bool, name: str) -> None:
    """Remove the user NAME, with sessions and tokens."""
    client.change("DELETE", f"/users/{place(name)}")
    if as_json:
        echo_json({"name": name})
    else:
        click.echo(f"{name}: removed")


@user.command()
@click.argument("name", metavar="NAME")
@click.option("--name", "label", required=True, help="What the token is for.")
@click.option("--role", type=ROLE, required=True, help="The lesser of this and the user's holds.")
@click.option("--days", type=click.IntRange(1, 3660), help="Until it is revoked by default.")
@account_options
def token(
    client: Client, as_json: bool, name: str, label: str, role: str, days: int | None
) -> None:
    """Make an API token for the user NAME and print it, which is shown this once."""
    body = {"name": label, "role": role, "user": name, "days": days}
    made = client.change("POST", "/tokens", body)
    lost = (
        f"Token {made['token']['id']} of {name} is made, and nobody can see it again; take it back, and make "
        f"another: slipstream user revoke {made['token']['id']}"
    )
    echo_secret(made["secret"], made, as_json=as_json, lost=lost)


@user.command()
@click.argument("number", metavar="TOKEN", type=click.IntRange(1))
@account_options
def revoke(client: Client, as_json: bool, number: int) -> None:
    """Revoke the API token with the number TOKEN."""
    client.change("DELETE", f"/tokens/{number}")
    if as_json:
        echo_json({"token": number})
    else:
        click.echo(f"token {number}: revoked")
