"""The engine: requests in, tokens out. Schedules one native step after another; knows no HTTP and no templates."""
