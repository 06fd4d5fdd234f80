"""The Hive: peers that come and go and together train one model."""
