"""The W&B workspace of a project, as code.

    python -m mri_fm.observe.dashboard --entity E --project P

creates a saved view of the project with the sections of `mri_fm.observe.panels` and prints its address. It needs an account
(`wandb login`); the run itself does not.
"""

from __future__ import annotations

import argparse
from typing import Any

from mri_fm.errors import UserError, run_main
from mri_fm.observe.panels import PICTURES, SECTIONS, Panel


def workspace(entity: str, project: str) -> Any:
    """The specification, a `wandb_workspaces.workspaces.Workspace`; nothing is sent."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name=name, panels=_panels(name), is_open=True) for name in SECTIONS]
    return ws.Workspace(entity=entity, project=project, name="mri-fm", sections=sections, auto_generate_panels=False)


def _panels(section: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    if section == "pictures":
        return [wr.MediaBrowser(title=key.partition("/")[2], media_keys=[key]) for key in PICTURES]
    return [_line_plot(panel) for panel in SECTIONS[section]]


def _line_plot(panel: Panel) -> Any:
    """A plot of the panel's metrics; families of them are chosen by a pattern, since their members depend on the run."""
    import wandb_workspaces.reports.v2 as wr

    pattern = "|".join(f"^{key}.*" if key.endswith(("/", "_")) else f"^{key}$" for key in panel.keys)
    if len(panel.keys) == 1 and not panel.keys[0].endswith(("/", "_")):
        return wr.LinePlot(title=panel.title, x="Step", y=[panel.keys[0]], log_y=panel.log)
    return wr.LinePlot(title=panel.title, x="Step", metric_regex=pattern, log_y=panel.log)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="mri-fm")
    options = parser.parse_args()
    import wandb

    try:
        saved = workspace(options.entity, options.project).save()
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise UserError(f"W&B did not take the workspace ({error}); `wandb login`, and check --entity and --project") from error
    print(saved.url)
    return 0


if __name__ == "__main__":
    run_main(main)
