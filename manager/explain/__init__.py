"""Why a task or a service is as it is, in sentences: told from the store, by the code that decides.

Pure. Nothing here is remembered for the purpose: each reason is worked out again from what is stored, by the
same filters, policies and update rules that decided, so what is said is what would be decided now.
"""

from manager.explain.services import explain_service
from manager.explain.tasks import explain_task, task_in_slot
from manager.explain.words import Explanation, NodeVerdict, Reason

__all__ = ["Explanation", "NodeVerdict", "Reason", "explain_service", "explain_task", "task_in_slot"]
