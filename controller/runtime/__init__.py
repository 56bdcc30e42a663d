"""Work queue, object cache, leader election, compare-and-swap status. The only place that imports kubernetes."""
