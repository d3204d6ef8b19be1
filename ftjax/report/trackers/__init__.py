"""Services that metrics are sent to, one file each; see `ftjax/report/tracking.py`."""
