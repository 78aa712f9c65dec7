"""At which steps a run evaluates and saves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """All in optimizer updates; step 0 is before the first one, where nothing is due."""

    total_steps: int
    eval_steps: int
    save_steps: int | None

    def evaluates(self, step: int) -> bool:
        """Every `eval_steps`, and at the end."""
        return step > 0 and (step % self.eval_steps == 0 or step == self.total_steps)

    def saves(self, step: int) -> bool:
        """At each evaluation, and every `save_steps`."""
        return self.evaluates(step) or (step > 0 and self.save_steps is not None and step % self.save_steps == 0)

    @property
    def first_save(self) -> int:
        return min(self.total_steps, self.eval_steps, self.save_steps or self.total_steps)

    @property
    def saves_in_all(self) -> int:
        """Checkpoints that the whole run makes, at most."""
        return self.total_steps // self.eval_steps + self.total_steps // (self.save_steps or self.total_steps) + 1
