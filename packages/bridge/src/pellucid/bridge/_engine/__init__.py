"""One run with hooks: functions on names become a plan, and the plan hooks that come off again."""
