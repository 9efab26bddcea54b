package serial

import (
	"errors"
	"sync"

	bugst "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// perPort is how many low descriptors a port needs: its own and the pipe that
// wakes its reader.
const perPort = 3

// reserve holds low descriptors for ports that are opened late. It is the
// process's, as descriptors are.
var reserve reservation

type reservation struct {
	mu   sync.Mutex
	want int   // descriptors held and lent together
	lent int   // to ports that are open
	fds  []int // held: all below 1024
}

// Reserve keeps low descriptors free for ports more serial ports, so that
// they can be opened, and opened again, however many connections the process
// has by then. Call it before anything listens.
func Reserve(ports int) error {
	return reserve.add(ports)
}

func (r *reservation) add(ports int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want == 0 {
		r.want = perPort // spare: what another goroutine may snatch while a port is reopened
	}
	r.want += ports * perPort
	if !r.fill() {
		return errors.New("reserve file descriptors for serial ports: too many are open already; call it earlier, or raise LimitNOFILE")
	}
	return nil
}

// lend frees the descriptors of one port, so that the next ones opened get
// their numbers.
func (r *reservation) lend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent += perPort
	rest := max(0, len(r.fds)-perPort)
	for _, fd := range r.fds[rest:] {
		unix.Close(fd)
	}
	r.fds = r.fds[:rest]
}

// restore takes back what lend gave, after the port is closed.
func (r *reservation) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent -= perPort
	r.fill()
}

// fill takes descriptors until as many are held as wanted, or none below 1024
// is free, which it reports; the next call tries again.
func (r *reservation) fill() bool {
	for len(r.fds) < r.want-r.lent {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		if fd >= unix.FD_SETSIZE {
			unix.Close(fd)
			return false
		}
		r.fds = append(r.fds, fd)
	}
	return true
}

// probe panics, as reading would, if tty's descriptor is too high for
// select(2). It takes nothing from the port, and other errors are left to the
// first read.
func probe(tty bugst.Port) error {
	tty.SetReadTimeout(0)
	tty.Read(nil)
	return nil
}
