package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// An FS opens folders. All I/O of this package goes through it, so that tests
// can put a disk under it that loses, tears and lies (package spooltest).
type FS interface {
	// Dir opens a folder and makes it when missing.
	Dir(path string) (Dir, error)
}

// A Dir is one folder. Names never contain separators. Its methods may be
// called at once.
type Dir interface {
	// Open opens a file for reading and writing; fs.ErrNotExist when missing.
	Open(name string) (File, error)
	// Create is Open of an empty new file that replaces an old one.
	Create(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync makes what was created, renamed and removed durable.
	Sync() error
	// Free returns the free and total bytes of the medium.
	Free() (free, total int64, err error)
	// Lock takes the exclusive lock file name; ErrLocked when another process
	// has it. The lock ends with the process.
	Lock(name string) (io.Closer, error)
	Close() error
}

// A File is an open file. A write that returned is visible to all readers and
// outlives the process; it outlives a power cut once Sync returned nil. After
// an error of Sync nothing is known about any write since the last one.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Sync() error
}

// OS returns the operating system's file system.
func OS() FS { return osFS{} }

// osFS is the operating system's file system.
type osFS struct{}

func (osFS) Dir(path string) (Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return osDir{root}, nil
}

type osDir struct{ root *os.Root }

func (d osDir) Open(name string) (File, error) {
	return d.file(name, os.O_RDWR)
}

func (d osDir) Create(name string) (File, error) {
	return d.file(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (d osDir) file(name string, flag int) (File, error) {
	f, err := d.root.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Rename(from, to string) error { return d.root.Rename(from, to) }
func (d osDir) Remove(name string) error     { return d.root.Remove(name) }
func (d osDir) Close() error                 { return d.root.Close() }

func (d osDir) List() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (d osDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d osDir) Free() (free, total int64, err error) {
	f, err := d.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var s syscall.Statfs_t
	if err := control(f, func(fd int) error { return syscall.Fstatfs(fd, &s) }); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", d.root.Name(), err)
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil
}

const (
	lockTries = 5
	lockPause = 10 * time.Millisecond
)

func (d osDir) Lock(name string) (io.Closer, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for range lockTries { // somebody may be looking, for a moment
		err = control(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockPause)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// An osFile syncs data and size only: its times do not matter.
type osFile struct{ *os.File }

func (f osFile) Sync() error {
	if err := control(f.File, syscall.Fdatasync); err != nil {
		return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
	}
	return nil
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// control calls fn with the descriptor of f and repeats it when a signal
// interrupts it.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	err = raw.Control(func(fd uintptr) {
		for called = fn(int(fd)); called == syscall.EINTR; called = fn(int(fd)) {
		}
	})
	return errors.Join(err, called)
}
