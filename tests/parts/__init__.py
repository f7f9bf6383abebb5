"""The real parts that tests run against: engines, a gateway and a Prometheus of this machine."""
