"""The command `advjax completion`."""

import dataclasses
from typing import ClassVar, Literal

from advjax.cli.parser import Command

LINES = {
    "bash": "complete -o default -C advjax advjax",
    "zsh": "autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C advjax advjax",
}


@dataclasses.dataclass(frozen=True)
class Completion(Command):
    """Print a shell's completion of commands.

    Put its output into the shell's start file: commands, options and choices are then completed.

    Attributes:
        shell: The shell: bash or zsh.
    """

    arguments: ClassVar = {"shell": "SHELL"}
    examples: ClassVar = (
        "advjax completion bash >> ~/.bashrc",
        "advjax completion zsh >> ~/.zshrc",
    )
    shell: Literal["bash", "zsh"]

    def run(self) -> None:
        """Run the command."""
        print(LINES[self.shell])
