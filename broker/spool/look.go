package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
)

// ErrLookOnly: the log was opened by Look.
var ErrLookOnly = errors.New("spool was opened for looking only")

// Look opens a log that nobody has open and changes nothing in it: no number
// is given, no file is made, written or renamed. Its consumers can be scanned
// and it can be verified; whatever would change it returns ErrLookOnly. It
// fails with ErrLocked when a process has the log, with fs.ErrNotExist when
// there is none, and with ErrNewer.
func Look(cfg Config) (*Log, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	cfg.FS = lookFS{cfg.FS}
	cfg.Log = slog.New(slog.DiscardHandler) // what is wrong with it Verify tells
	l := newLog(cfg)
	l.looking = true
	var err error
	if l.dir, err = cfg.FS.Dir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("look into spool %s: %w", cfg.Name, err)
	}
	if err := l.open(); err != nil {
		l.release()
		return nil, fmt.Errorf("look into spool %s in %s: %w", cfg.Name, cfg.Dir, err)
	}
	return l, nil
}

// A looker is an FS that can open a folder without making it.
type looker interface {
	Look(path string) (Dir, error)
}

// A lookFS lets nothing through that changes a folder.
type lookFS struct{ FS }

func (f lookFS) Dir(path string) (Dir, error) {
	open := f.FS.Dir
	if l, ok := f.FS.(looker); ok {
		open = l.Look
	}
	d, err := open(path)
	if err != nil {
		return nil, err
	}
	return lookDir{d}, nil
}

type lookDir struct{ Dir }

func (d lookDir) Open(name string) (File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return lookFile{f}, nil
}

func (lookDir) Create(string) (File, error) { return nil, ErrLookOnly }
func (lookDir) Rename(_, _ string) error    { return ErrLookOnly }
func (lookDir) Remove(string) error         { return ErrLookOnly }
func (lookDir) Sync() error                 { return ErrLookOnly }

// Lock finds out whether a process has the log, and keeps none from taking it.
func (d lookDir) Lock(name string) (io.Closer, error) {
	c, err := d.Dir.Lock(name)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, ErrLocked) {
		err = nil // no lock file: nobody has it
	}
	return nil, err
}

type lookFile struct{ File }

func (lookFile) WriteAt([]byte, int64) (int, error) { return 0, ErrLookOnly }

// Sync says that what can be read is there: it is as good as it gets.
func (lookFile) Sync() error { return nil }

// Look opens a folder that exists, for reading.
func (osFS) Look(path string) (Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return osLook{osDir{root}}, nil
}

// An osLook is a folder of which nothing is asked but reading.
type osLook struct{ osDir }

func (d osLook) Open(name string) (File, error) { return d.file(name, os.O_RDONLY) }

// Lock takes a shared lock, which the exclusive one of a gateway rules out.
func (d osLook) Lock(name string) (io.Closer, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	err = control(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB) })
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var _ looker = osFS{}

// Consumers returns all consumers, by id.
func (l *Log) Consumers() (list []*Consumer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.consumers {
		if c != nil {
			list = append(list, c)
		}
	}
	return list
}

// Find returns the consumer of that name, nil if there is none.
func (l *Log) Find(name string) *Consumer {
	for _, c := range l.Consumers() {
		if c.name == name {
			return c
		}
	}
	return nil
}

// Purge gives up all that c is owed: it goes on with the next record, and is
// told of the gap. It returns how many records that were.
func (c *Consumer) Purge() uint64 {
	l := c.l
	l.mu.Lock()
	n, idle, first, last := c.records, c.idleLocked(), c.acked.upto+1, c.lastOwed
	l.mu.Unlock()
	if idle || l.looking {
		return 0
	}
	c.AckTo(last)
	l.mu.Lock()
	defer l.mu.Unlock()
	c.loseLocked(Gap{first, last, n, ReasonPurged})
	wake(l.frontKick)
	return n
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
