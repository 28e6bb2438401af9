"""The plan: what a run would do and cost."""

from pipelines.plan.planner import plan
from pipelines.plan.result import Amount, Plan, StepPlan

__all__ = ["Amount", "Plan", "StepPlan", "plan"]
