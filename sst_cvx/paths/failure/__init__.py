"""What becomes of elements that cannot be answered, and what callers are told of every one."""

from sst_cvx.paths.failure.each import check_failure as check_failure
from sst_cvx.paths.failure.each import each as each
from sst_cvx.paths.failure.info import SolveInfo as SolveInfo
