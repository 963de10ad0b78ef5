-- A connection was lost. ARGV: app, channel, client, connection, milliseconds until it lets go.
lose(ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), 'disconnected')
return 0
