"""`tandem models`: the managed models of all hosts; `load` one, `stop` one."""

from __future__ import annotations

from typing import Final

import click

from common.api import leases, models, resource_manager
from common.api.models import Model, ModelReady, UseModel
from common.client.sync import Client
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import PRIORITY, duration, with_host, with_json

HEADERS: Final = ("MODEL", "HOST", "STATE", "BYTES", "DECLARED", "LOADS IN", "USERS", "ENGINE", "SERVES", "")
BEYOND_S: Final = 10.0


@click.group(invoke_without_command=True)
@with_host
@with_json
@click.pass_context
def command(context: click.Context, host: str, as_json: bool) -> None:
    """The managed models: where each is, what it takes as measured, and what it lacks.

    JSON: {"models": [...], "as_of", "missing"} as list_models answers it; `load` prints where the model answers.
    """
    if context.invoked_subcommand is not None:
        return
    with asking.fabric() as client:
        found = asking.managed_models(client, host)
    if not found.models:
        asking.only(host)
    if as_json:
        output.say_json(found)
        return
    if found.models:
        output.table(HEADERS, [row(model) for model in found.models], right=(3, 4, 5, 6))
    else:
        output.say("no managed models; startup files have them under `models`, `tandem adopt` finds some")
    for name, why in found.missing.items():
        output.note(f"models of {name} are missing: {why}")


def row(model: Model) -> tuple[object, ...]:
    """A model as a line of the table."""
    return (
        ", ".join([model.name, *model.aliases]),
        model.host,
        state(model),
        *taken(model),
        output.age(model.load_s) if model.load_s else "not known",
        f"{model.users}/{model.slots}",
        model.engine,
        " ".join(model.capabilities),
        model.problem,
    )


def taken(model: Model) -> tuple[str, str]:
    """What it takes on a card, as measured and as declared."""
    if not model.declared_bytes:
        return "no card", "no card"
    measured = output.size(model.footprint_bytes) if model.footprint_bytes else "not measured"
    return measured, output.size(model.declared_bytes)


def state(model: Model) -> str:
    """What the model is doing, and for how long nothing."""
    idle = f" {output.age(model.idle_s)} idle" if model.state == "ready" and not model.users else ""
    marks = [mark for mark, holds in (("pinned", model.pinned), ("adopted", model.adopted)) if holds]
    return ", ".join([(model.state if model.enabled else "disabled") + idle, *marks])


@command.command("load")
@click.argument("name", metavar="MODEL")
@click.option("--wait", "wait_s", type=duration, default="300s", show_default=True, metavar="TIME", help="For it.")
@click.option("--priority", type=PRIORITY, default=50, show_default=True, help="0 to 100, higher first.")
@with_host
@with_json
def load(name: str, wait_s: float, priority: int, host: str, as_json: bool) -> Exit:
    """Load a model where there is room, and tell where it answers. It stays until its room is wanted.

    JSON: the reply of use_model; its lease has been given back.
    """
    asked = UseModel(model=name, host=host, priority=priority, wait_s=float(wait_s))
    with asking.fabric(float(wait_s) + BEYOND_S) as client:
        ready = _used(client, asked, quiet=as_json)
    if as_json:
        output.say_json(ready)
    else:
        waited = f" after {output.age(ready.waited_s)}" if ready.waited_s >= 1 else ""
        output.say(f"{output.clean(ready.model)} answers on {ready.host} at {ready.url} as {ready.upstream}{waited}")
    return Exit.OK


@command.command("stop")
@click.argument("name", metavar="MODEL")
@with_host
@with_json
def stop(name: str, host: str, as_json: bool) -> Exit:
    """Stop a model's engine, also one in use, and give its bytes back.

    JSON: {"state", "returned_bytes"} as stop_model answers it.
    """
    with asking.fabric() as client:
        stopped = client.call(resource_manager.SERVICE, models.STOP_MODEL, models.StopModel(model=name, host=host))
    if as_json:
        output.say_json(stopped)
    else:
        output.say(f"{output.clean(name)} is {stopped.state}; {output.size(stopped.returned_bytes)} came back")
    return Exit.OK


@command.command("reload")
@with_host
@with_json
def reload(host: str, as_json: bool) -> Exit:
    """Have startup files read anew: their new models are taken in, and one that runs keeps its entry until it has gone.

    JSON: {"HOST": {"models": [...], "as_of", "missing"}} as each host's reload_models answers it.
    """
    with asking.fabric() as client:
        answers, errors = asking.each_host(client, asking.only(host), models.RELOAD_MODELS, models.ReloadModels())
    if not answers:
        raise next(iter(errors.values()))
    if as_json:
        output.say_json(answers)
    for name, answer in answers.items():
        if not as_json:
            output.say(f"{name} has {', '.join(output.clean(model.name) for model in answer.models) or 'no models'}")
    for name, error in errors.items():
        output.note(f"{name} has not read its file: {error.message}")
    return Exit.OK if not errors else Exit.BAD_ANSWER


def _used(client: Client, asked: UseModel, *, quiet: bool) -> ModelReady:
    """The model, its use given back at once; what is told on the way goes to stderr."""
    told = ""
    for item in client.stream(resource_manager.SERVICE, models.USE_MODEL, asked):
        if isinstance(item, ModelReady):
            held = leases.ReleaseLease(lease_id=item.lease.lease_id, fencing_token=item.lease.fencing_token)
            client.call(asking.keeper_of(item.host), leases.RELEASE_LEASE, held)
            return item
        eta = "" if item.eta_s is None else f", about {output.age(item.eta_s)} to go"
        line = f"{item.phase} on {item.host}{eta}: {item.reason}"
        if line != told and not quiet:
            told = line
            output.note(line)
    raise AssertionError("a stream ends with its reply, or with an error")
