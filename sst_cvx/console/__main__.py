"""``python -m sst_cvx.console``: the same as ``sst-cvx``."""

from sst_cvx.console import main

raise SystemExit(main())
