from polytopes import *  # noqa: F403
