// Package bridge carries messages between the local broker and one upstream
// broker, through outages of any length.
//
// # Sending
//
// A bridge is a durable subscriber of the local broker: what its send rules
// match is stored in the spool and belongs to it until the far broker's
// PUBACK. It holds no queue of its own. One goroutine sends in order, up to
// a window of messages in flight; PUBACKs come back in any order and mark
// single records in the spool, which moves the cursor over what is complete.
// When a connection is lost all that was in flight is forgotten and read from
// the spool again, in order and with new packet ids: at least once. MQTT 5
// (4.4) would have the same packets repeated with their ids; brokers cannot
// tell, for they keep nothing about a QoS 1 message they have acknowledged or
// not. Each message carries the user property mid, made of the log's id and
// the record's sequence number, by which the far side drops repetitions.
//
// Strict replay is one stream for each class in the order of the log. With
// live-first, what is appended after a (re)connect goes first and what was
// there before fills the gaps, at least every fifth message. The backlog
// carries replayed=1. Critical messages are few and always strict; they go
// first, but leave a fifth to others, too.
//
// A message keeps its retain flag only if nothing newer was sent to its topic
// before it. So no old value replaces a new one upstream, and what changed
// during an outage and not again (a device that went offline) is retained
// there all the same.
//
// A record in the spool is owed, so it is sent with the bridge's QoS whatever
// QoS it came with, lowered to what the far broker supports. A bridge with
// QoS 0 counts a message as delivered once the kernel has taken it: what is
// on its way when a link breaks is lost. That is what QoS 0 means; use 1.
//
// What the far broker refuses for what it is (not authorised, bad topic, too
// large) is counted, logged when that begins and ends, and given up, so that
// it never holds up the rest. Refusals for lack of quota are repeated, later
// and later. A broker that ends the connection instead of refusing a message
// is sent one message at a time until it is found which one that is: the one
// upon which it ends several connections over which others passed. On every
// second of these the message accepted last is sent once more before, with its
// id, or, while none was accepted, the status counts. A broker that ends the
// connection upon everything costs time, and no message.
//
// All that is given up is kept as a dead letter, a bounded file for people.
//
// A far broker may bear less than it says: Limits bound size, topics and rates
// from outside, by presets or by hand. What is too large or goes to a topic that
// cannot be is given up before it is sent; what is too fast waits in the spool.
// What piled up may have a rate of its own, be thinned out with age, or be
// reduced to the latest of each topic: what that leaves out becomes gaps, few
// and large, for a gap costs a message. A link may have a number of bytes for
// each day, after which only critical messages go.
//
// A password that is made for a time (SAS) is made anew for each connection, and
// the connection is renewed before it ends, once nothing is in flight.
//
// # Ways
//
// TCP, then a proxy's CONNECT or SOCKS5, TLS, WebSocket: each step is a function
// of its own, which Probe goes through one by one for `gateway bridge test`. No
// variable of the environment leads anywhere unless the configuration says so.
//
// # Connecting again
//
// Each wait before a connection is drawn at random, also the first one after a
// connection was lost and the one after a boot, from a range that is eight
// seconds wide at least. A thousand gateways lose their far broker, or get their
// power back, in the same instant; from one to two seconds, as here at first, all
// of them came in the same second, and those it refused came again in the next. One
// gateway alone loses three seconds by that on average, in which a far broker that
// restarts would not have let it in anyway. The URLs of a cluster are equals, so
// each client id begins with another one, and the next one follows a lost one; any
// other list has a first choice.
//
// # Receiving
//
// Receive rules subscribe upstream, and lead to command topics only. What
// comes in is published locally as user "bridge:NAME", bound by what that user
// may do, and acknowledged upstream when the local broker has it safe. It is
// never sent back. Retained messages are no commands and are ignored.
//
// # paho.golang
//
// Only its Client is used, the MQTT 5 packet codec, pinger and reader: not
// autopaho, none of its queues and stores, and not its session state, which
// loses what is in flight with the far session (its PublishViaQueue counts a
// message as delivered once it is in that state), sends again beyond the
// Receive Maximum, writes without deadline while holding its lock, and tells
// no one about PUBACKs of asynchronous messages. See session and conn. It has
// no limit for what it reads, nor a check of the server's Maximum Packet Size,
// and would crash on a CONNACK with an authentication method: all three are
// made good here. Handlers are given to each Client at its making, for those
// added later vanish with it. Its manual acknowledgement, which looks twenty
// times a second for something to send, is off: the session keeps the order of
// PUBACKs. QoS 2 is not used: PUBREC is answered without regard to a connection
// that ends, and its state is in no place that is synced. docs/testing.md lists
// all its traps with the tests.
//
// # MQTT 3.1.1
//
// Upstreams that speak no 5 are reached with paho.mqtt.golang, a new Client for
// each connection. All that it does by itself is off: reconnecting, its store
// (an empty one in memory, so that nothing comes again but from the spool),
// trying 3.1 after a no, acknowledging what a handler has seen, proxies of the
// environment. What remains is kept from harm: its Publish, which waits on
// after a connection is gone, runs in a goroutine of its own that keeps the
// order; tokens of a lost connection, which never end, are given up with it; it
// has no window, the sender keeps one; it reads no PUBACK while a handler
// waits, so commands are queued; it takes a CONNACK code that it does not know
// for success, and would crash on a SUBACK with too many codes, so both are
// looked at before; and it stays up when the connection is closed here. There
// are no properties, so an id has to be in the payload (publish tables: id =
// true), and a command says in it until when it is valid.
package bridge
