"""What stands between declarations and a run: arguments that a part must be made with."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """What an optimizer asks beside the target's losses; the target plays it where it can.

    Attributes:
        argument: The optimizer's argument that gives the role to another part.
        access: The access mixins that the role takes; whoever has them can play it.
        part: What to pass, such as "a model with logits".
        loss_argument: The argument that gives the role a loss of its own; None when it computes
            none.
        is_required: Whether the argument must be given, whatever the target can do.
        otherwise: The settings under which nobody plays the role, in words; none when empty.
    """

    argument: str
    access: tuple[type, ...]
    part: str
    loss_argument: str | None = None
    is_required: bool = False
    otherwise: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """An argument without which a part does not go with the others.

    Attributes:
        owner: Class name of the part that takes it.
        argument: The argument.
        advice: What to pass.
        because: Why it is needed here; empty where it always is.
    """

    owner: str
    argument: str
    advice: str
    because: str = ""

    def __str__(self) -> str:
        why = f", because {self.because}" if self.because else ""
        return f"{self.owner} needs {self.argument}=, {self.advice}{why}."
