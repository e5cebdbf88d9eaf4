-- Tells what the server's clock says. A script has a key, so in a Cluster this is asked of the one master that has the records.
-- Answers seconds and microseconds.
return redis.call('TIME')
