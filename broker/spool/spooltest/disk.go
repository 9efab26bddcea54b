// Package spooltest is a disk in memory that fails on demand, to put under a
// spool. It loses what was not synced, tears writes at 512 bytes, forgets the
// order of writes and the last directory operations, runs full, and can lie
// after a failed sync as kernels do.
//
// Two things can end a process on it: Kill, after which all that was written
// is still there, and PowerCut, after which only what was synced is for sure.
package spooltest

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"

	"edgegateway/broker/spool"
)

const sector = 512

// ErrDead is what every operation of a killed process returns.
var ErrDead = errors.New("the process is dead")

// An Op names one operation, for faults.
type Op struct {
	Kind string // "open", "create", "read", "write", "sync", "rename", "remove", "list", "syncdir"
	Dir  string
	File string
	N    int // number of the operation since NewDisk, from 1
}

// A Disk is a spool.FS. All methods may be called at once.
type Disk struct {
	mu     sync.Mutex
	dirs   map[string]*dir
	locks  map[string]int // process that holds it
	proc   int            // the present process: handles of earlier ones are dead
	ops    int
	killAt int // operation at which the process dies; 0: none
	killed bool

	fault    func(Op) error
	capacity int64 // of all files that are not volatile, bytes; 0: no bound
	used     int64
}

// NewDisk returns an empty disk. The folders named are on a tmpfs: they
// outlive the process but no power cut, and take up no capacity.
func NewDisk(volatile ...string) *Disk {
	d := &Disk{dirs: make(map[string]*dir), locks: make(map[string]int), proc: 1}
	for _, path := range volatile {
		d.dirs[path] = &dir{d: d, path: path, volatile: true, now: make(map[string]*inode)}
	}
	return d
}

// Fail makes each operation for which fault returns an error return it; nil
// ends that. A sync that fails so forgets what it should have synced, and
// later ones succeed.
func (d *Disk) Fail(fault func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// Failing tells whether Fail is in force.
func (d *Disk) Failing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault != nil
}

// Limit bounds the bytes of all files that are not volatile; 0 ends that.
func (d *Disk) Limit(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

type dir struct {
	d        *Disk
	path     string
	volatile bool
	now      map[string]*inode
	durable  map[string]*inode
	pending  []func(map[string]*inode)
}

// An inode is one file: its contents as a reader sees them, as they are on
// the medium, and the sectors written since.
type inode struct {
	now, durable []byte
	pending      []write
}

type write struct {
	off  int64
	data []byte // of one sector at most
}

// Dir implements spool.FS. Folders are durable at once.
func (d *Disk) Dir(path string) (spool.Dir, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirs[path] == nil {
		d.dirs[path] = &dir{d: d, path: path, now: make(map[string]*inode), durable: make(map[string]*inode)}
	}
	return &handle{dir: d.dirs[path], proc: d.proc}, nil
}

// Ops returns how many operations there were.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// KillAt makes the process die in the operation that is n from now; a write
// then is cut anywhere.
func (d *Disk) KillAt(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killAt = d.ops + n
}

// Killed tells whether the present process died already, as KillAt said.
func (d *Disk) Killed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.killed
}

// Start begins the next process, which no KillAt concerns yet.
func (d *Disk) Start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killAt, d.killed = 0, false
}

// Kill ends the process: its handles are dead, its writes stay.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killLocked()
}

func (d *Disk) killLocked() {
	d.proc++
	d.killAt, d.killed = 0, true
}

// PowerCut ends the process and takes of what was not synced a random part.
func (d *Disk) PowerCut(rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killLocked()
	for _, path := range slices.Sorted(keys(d.dirs)) {
		d.dirs[path].cut(rng)
	}
	d.used = 0
	for _, dir := range d.dirs {
		for _, i := range dir.now {
			if !dir.volatile {
				d.used += int64(len(i.now))
			}
		}
	}
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (r *dir) cut(rng *rand.Rand) {
	if r.volatile {
		r.now = make(map[string]*inode)
		return
	}
	for _, op := range r.pending[:rng.IntN(len(r.pending)+1)] { // a journal loses the end
		op(r.durable)
	}
	r.pending = nil
	r.now = make(map[string]*inode)
	for _, name := range slices.Sorted(keys(r.durable)) {
		i := r.durable[name]
		i.cut(rng)
		r.now[name] = i
	}
}

// cut keeps some of the unsynced sectors: none, all, or any.
func (i *inode) cut(rng *rand.Rand) {
	p := []float64{0, 1, rng.Float64()}[rng.IntN(3)]
	for _, w := range i.pending {
		if rng.Float64() < p {
			i.durable = put(i.durable, w.data, w.off)
		}
	}
	i.pending = nil
	i.now = slices.Clone(i.durable)
}

// Flip inverts bits of a byte that is on the medium.
func (d *Disk) Flip(path, name string, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.dirs[path].now[name]
	for _, p := range [][]byte{i.now, i.durable} {
		if off < int64(len(p)) {
			p[off] ^= 0x55
		}
	}
}

// Files returns the names in a folder, sorted.
func (d *Disk) Files(path string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirs[path] == nil {
		return nil
	}
	return slices.Sorted(keys(d.dirs[path].now))
}

// Bytes returns a copy of a file as a reader sees it.
func (d *Disk) Bytes(path, name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.dirs[path].now[name].now)
}

// Used returns the bytes of all files that are not volatile.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used
}

func put(p, data []byte, off int64) []byte {
	if n := int(off) + len(data); n > len(p) {
		p = append(p, make([]byte, n-len(p))...)
	}
	copy(p[off:], data)
	return p
}

// A handle is a folder as one process opened it.
type handle struct {
	*dir
	proc int
}

// begin counts an operation and tells what is to become of it. The disk is
// locked when it returns.
func (h *handle) begin(kind, file string) (dying bool, err error) {
	d := h.d
	d.mu.Lock()
	if h.proc != d.proc {
		return false, ErrDead
	}
	d.ops++
	if d.killAt != 0 && d.ops >= d.killAt {
		d.killLocked()
		return true, ErrDead
	}
	if d.fault != nil {
		return false, d.fault(Op{kind, h.path, file, d.ops})
	}
	return false, nil
}

func (h *handle) change(op func(map[string]*inode)) {
	op(h.now)
	if !h.volatile {
		h.pending = append(h.pending, op)
	}
}

func (h *handle) Open(name string) (spool.File, error) {
	_, err := h.begin("open", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	i := h.now[name]
	if i == nil {
		return nil, fs.ErrNotExist
	}
	return &file{h, i, name}, nil
}

func (h *handle) Create(name string) (spool.File, error) {
	_, err := h.begin("create", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	h.release(name)
	i := new(inode)
	h.change(func(m map[string]*inode) { m[name] = i })
	return &file{h, i, name}, nil
}

// release gives the space of a name's file back.
func (h *handle) release(name string) {
	if i := h.now[name]; i != nil && !h.volatile {
		h.d.used -= int64(len(i.now))
	}
}

func (h *handle) Rename(from, to string) error {
	_, err := h.begin("rename", from)
	defer h.d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case h.now[from] == nil:
		return fs.ErrNotExist
	}
	h.release(to)
	h.change(func(m map[string]*inode) {
		if i := m[from]; i != nil {
			m[to] = i
			delete(m, from)
		}
	})
	return nil
}

func (h *handle) Remove(name string) error {
	_, err := h.begin("remove", name)
	defer h.d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case h.now[name] == nil:
		return fs.ErrNotExist
	}
	h.release(name)
	h.change(func(m map[string]*inode) { delete(m, name) })
	return nil
}

func (h *handle) List() ([]string, error) {
	_, err := h.begin("list", "")
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(keys(h.now)), nil
}

func (h *handle) Sync() error {
	_, err := h.begin("syncdir", "")
	defer h.d.mu.Unlock()
	if err != nil {
		return err
	}
	for _, op := range h.pending {
		op(h.durable)
	}
	h.pending = nil
	return nil
}

func (h *handle) Free() (free, total int64, err error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.capacity == 0 {
		return 1 << 40, 1 << 40, nil
	}
	return h.d.capacity - h.d.used, h.d.capacity, nil
}

type lock struct {
	h    *handle
	name string
}

func (h *handle) Lock(name string) (io.Closer, error) {
	_, err := h.begin("open", name)
	defer h.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	key := h.path + "/" + name
	if h.d.locks[key] == h.proc {
		return nil, spool.ErrLocked
	}
	h.d.locks[key] = h.proc
	return lock{h, key}, nil
}

func (l lock) Close() error {
	l.h.d.mu.Lock()
	defer l.h.d.mu.Unlock()
	if l.h.d.locks[l.name] == l.h.proc {
		delete(l.h.d.locks, l.name)
	}
	return nil
}

func (h *handle) Close() error { return nil }

type file struct {
	h    *handle
	i    *inode
	name string
}

func (f *file) Close() error { return nil }

func (f *file) Size() (int64, error) {
	f.h.d.mu.Lock()
	defer f.h.d.mu.Unlock()
	return int64(len(f.i.now)), nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	_, err := f.h.begin("read", f.name)
	defer f.h.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off >= int64(len(f.i.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.i.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	dying, err := f.h.begin("write", f.name)
	defer f.h.d.mu.Unlock()
	n := len(p)
	switch {
	case dying:
		n = f.h.d.ops * 7919 % (n + 1) // anywhere
	case err != nil && f.h.d.fault != nil && errors.Is(err, syscall.EIO):
		n /= 2 // short write
	case err != nil:
		return 0, err
	default:
		if grow := max(0, off+int64(n)-int64(len(f.i.now))); !f.h.volatile && f.h.d.capacity > 0 && f.h.d.used+grow > f.h.d.capacity {
			n = int(max(0, int64(n)-(f.h.d.used+grow-f.h.d.capacity)))
			err = syscall.ENOSPC
		}
	}
	f.put(p[:n], off)
	return n, err
}

func (f *file) put(p []byte, off int64) {
	was := len(f.i.now)
	f.i.now = put(f.i.now, p, off)
	if f.h.volatile {
		return
	}
	f.h.d.used += int64(len(f.i.now) - was)
	for len(p) > 0 {
		n := min(len(p), sector-int(off%sector))
		f.i.pending = append(f.i.pending, write{off, slices.Clone(p[:n])})
		p, off = p[n:], off+int64(n)
	}
}

func (f *file) Sync() error {
	_, err := f.h.begin("sync", f.name)
	defer f.h.d.mu.Unlock()
	if errors.Is(err, ErrDead) {
		return err
	}
	if err == nil {
		for _, w := range f.i.pending {
			f.i.durable = put(f.i.durable, w.data, w.off)
		}
	}
	f.i.pending = nil
	return err
}
