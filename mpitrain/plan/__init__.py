"""What a job will take, computed beforehand."""

from mpitrain.plan.layout import Plan, RankPlan, plan

__all__ = ["Plan", "RankPlan", "plan"]
