-- A connection lets go of its member. ARGV: app, channel, client, connection, reason.
let_go(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return 0
