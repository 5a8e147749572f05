"""`resnet-export`; also `python -m export`."""

from __future__ import annotations

import typer

from export.cli.build import build_command
from export.cli.checkpoint import checkpoint_command
from export.cli.engines import engines_command
from export.cli.ensemble import ensemble_command
from export.cli.import_ import import_command
from export.cli.inspect import inspect_command
from export.cli.traffic import promote_command, rollback_command
from export.cli.tune import tune_command
from export.cli.verify import verify_command

app = typer.Typer(help="Export checkpoints to model repositories.", no_args_is_help=True)
# The order of the help. A command that needs torch imports it when it runs: `--help` and `inspect` do not need it.
app.command("build")(build_command)
app.command("ensemble")(ensemble_command)
app.command("import")(import_command)
app.command("checkpoint")(checkpoint_command)
app.command("engines")(engines_command)
app.command("tune", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)(
    tune_command
)
app.command("verify")(verify_command)
app.command("inspect")(inspect_command)
app.command("promote")(promote_command)
app.command("rollback")(rollback_command)


if __name__ == "__main__":
    app()
