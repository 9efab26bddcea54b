package broker

import (
	"math"
	"net"
	"net/netip"
	"time"
)

// Whoever opens connections and brings no CONNECT must not keep others out. A
// place that such a connection holds is given to somebody else when there are
// no more, and an address from which one connection after the other comes to
// nothing has to wait.
const (
	patience   = 20          // connections in a row that may come to nothing
	strikeWait = time.Second // that each further one waits
	strikeAge  = time.Minute // after which all is forgotten
	maxSources = 4096        // addresses without a connection that are remembered
	ofOthers   = 100         // connections from one address, unless it is this machine
)

// sources are where connections come from; guarded by Broker.conns.
type sources struct {
	byAddr map[netip.Addr]*source
	visits map[net.Conn]*visit
}

// A source is one address.
type source struct {
	addr    netip.Addr // not valid: no address of a network, but a Unix socket
	open    int
	waiting []net.Conn // without a CONNECT so far, in the order in which they came
	strikes int        // connections in a row that came to nothing
	last    time.Time  // when the last one did
	told    time.Time  // when it was last logged that there are too many
}

type visit struct {
	from     *source
	accepted bool
}

// local says whether the address is of this machine, whose programs do not
// harm each other.
func (s *source) local() bool { return !s.addr.IsValid() || s.addr.IsLoopback() }

// perAddress returns how many connections may come from addr.
func (l *Limits) perAddress(addr netip.Addr) int {
	switch {
	case !addr.IsValid():
		return math.MaxInt
	case l.PerAddress > 0:
		return l.PerAddress
	case addr.IsLoopback():
		return math.MaxInt
	}
	return ofOthers
}

// of returns the source of conn, a new one if it is not known.
func (s *sources) of(conn net.Conn) *source {
	var addr netip.Addr
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		addr = tcp.AddrPort().Addr().Unmap()
	}
	if known := s.byAddr[addr]; known != nil {
		return known
	}
	return &source{addr: addr}
}

// enter notes that conn came, and returns how long it has to wait.
func (s *sources) enter(conn net.Conn, from *source, now time.Time) time.Duration {
	if s.byAddr == nil {
		s.byAddr, s.visits = make(map[netip.Addr]*source), make(map[net.Conn]*visit)
	}
	s.byAddr[from.addr] = from
	s.visits[conn] = &visit{from: from}
	from.open++
	from.waiting = append(from.waiting, conn)
	if now.Sub(from.last) >= strikeAge {
		from.strikes = 0
	}
	if from.strikes < patience || from.local() {
		return 0
	}
	return strikeWait
}

// accepted notes that conn brought a good CONNECT.
func (s *sources) accepted(conn net.Conn) {
	v := s.visits[conn]
	v.accepted = true
	v.from.strikes = 0
	v.from.arrived(conn)
}

// leave notes that conn is gone; a second time is no mistake.
func (s *sources) leave(conn net.Conn, now time.Time) {
	v := s.visits[conn]
	if v == nil {
		return
	}
	delete(s.visits, conn)
	v.from.open--
	if !v.accepted {
		v.from.arrived(conn)
		v.from.strikes, v.from.last = v.from.strikes+1, now
	}
	if v.from.open == 0 && (v.from.strikes == 0 || v.from.local()) {
		delete(s.byAddr, v.from.addr)
	}
	if len(s.byAddr)-len(s.visits) > maxSources {
		s.forget()
	}
}

// arrived takes conn from those that are waited for.
func (s *source) arrived(conn net.Conn) {
	for i, c := range s.waiting {
		if c == conn {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return
		}
	}
}

// forget drops the addresses that have no connection.
func (s *sources) forget() {
	for addr, from := range s.byAddr {
		if from.open == 0 {
			delete(s.byAddr, addr)
		}
	}
}

// crowd returns the connection that makes room for one from newcomer: the
// oldest without a CONNECT of the address with most of them, nil if no other
// address has more than one.
func (s *sources) crowd(newcomer *source) net.Conn {
	var most *source
	for _, from := range s.byAddr {
		if most == nil || len(from.waiting) > len(most.waiting) {
			most = from
		}
	}
	if most == nil || most == newcomer || len(most.waiting) < 2 {
		return nil
	}
	return most.waiting[0]
}
