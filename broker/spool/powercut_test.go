package spool_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	. "edgegateway/broker/spool"
)

// Power cuts on a real ext4. A log is used on a file system whose block device
// writes down what it was told, with all flushes (blklogwrites of
// qemu-storage-daemon, exported by FUSE, below a loop device). From that record
// the medium is made again as a power cut at any moment could leave it: all
// that was flushed, and of the rest nothing, all, or some of it, torn at a
// sector. The log that is opened there must have each record that was
// acknowledged until then.

// A cutRig makes such media. It needs root, loop devices and FUSE.
type cutRig struct {
	t       *testing.T
	dir     string // on a tmpfs
	daemon  *exec.Cmd
	ended   chan struct{}
	loop    string
	mount   string
	mounted bool
}

const cutSize = 48 << 20

func newCutRig(t *testing.T) *cutRig {
	t.Helper()
	if why := cutForbidden(); why != "" {
		t.Skipf("NOT TESTED HERE: power cuts on a real file system: %s", why)
	}
	for _, name := range []string{"qemu-storage-daemon", "losetup", "mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v; ./test.sh installs what the tests need", err)
		}
	}
	dir := memoryDir(t)
	r := &cutRig{t: t, dir: dir, mount: filepath.Join(dir, "m")}
	t.Cleanup(r.end)
	return r
}

// memoryDir is a folder on a tmpfs, if there is one, for tests that do not ask
// what a medium keeps: the syncs of a card would only make them wait.
func memoryDir(t *testing.T) string {
	t.Helper()
	base := ""
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "spool-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// cutForbidden says why this machine does not allow it, or nothing.
func cutForbidden() string {
	if os.Geteuid() != 0 {
		return "they need root"
	}
	for _, file := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(file); err != nil {
			return "there is no " + file
		}
	}
	return ""
}

func (r *cutRig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *cutRig) run(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *cutRig) file(name string, size int64) {
	r.t.Helper()
	f, err := os.Create(r.path(name))
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// start makes a file system whose writes are recorded and mounts it.
func (r *cutRig) start() {
	r.t.Helper()
	r.file("base.img", cutSize)
	r.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", r.path("base.img"))
	r.run("cp", r.path("base.img"), r.path("before.img"))
	r.file("log.img", 0)
	r.file("exp.img", 0)
	r.daemon = exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=f0,filename="+r.path("base.img"),
		"--blockdev", "driver=file,node-name=l0,filename="+r.path("log.img"),
		"--blockdev", "driver=blklogwrites,node-name=b0,file=f0,log=l0,log-super-update-interval=1",
		"--export", "type=fuse,id=e0,node-name=b0,mountpoint="+r.path("exp.img")+",writable=on")
	r.daemon.Stderr = os.Stderr
	if err := r.daemon.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.ended = make(chan struct{})
	go func() { r.daemon.Wait(); close(r.ended) }()
	for !r.exported() {
		select {
		case <-r.ended:
			r.t.Fatal("qemu-storage-daemon ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !r.attach(r.path("exp.img")) {
		r.t.Fatal("the new file system cannot be mounted")
	}
}

func (r *cutRig) exported() bool {
	mounts, _ := os.ReadFile("/proc/mounts")
	return strings.Contains(string(mounts), r.path("exp.img"))
}

// attach mounts an image and says whether it could: a torn superblock is the
// file system's loss.
func (r *cutRig) attach(image string) bool {
	r.t.Helper()
	if err := os.MkdirAll(r.mount, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.loop = r.run("losetup", "-f", "--show", image)
	r.mounted = exec.Command("mount", r.loop, r.mount).Run() == nil
	return r.mounted
}

// unmount waits for processes that tests beside this one have just forked: they
// hold what is open here until they are another program.
func unmount(t *testing.T, dir string) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("umount %s: %v", dir, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *cutRig) detach() {
	r.t.Helper()
	if r.mounted {
		unmount(r.t, r.mount)
	}
	r.mounted = false
	r.run("losetup", "-d", r.loop)
	r.loop = ""
}

// stop ends the recording and returns it.
func (r *cutRig) stop() []byte {
	r.t.Helper()
	r.detach()
	r.daemon.Process.Signal(os.Interrupt)
	<-r.ended
	r.daemon = nil
	data, err := os.ReadFile(r.path("log.img"))
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *cutRig) end() {
	if r.mounted {
		exec.Command("umount", "-l", r.mount).Run()
	}
	if r.loop != "" {
		exec.Command("losetup", "-d", r.loop).Run()
	}
	if r.daemon != nil {
		r.daemon.Process.Kill()
		<-r.ended
		exec.Command("umount", "-l", r.path("exp.img")).Run()
	}
}

// recorded returns how long the recording is.
func (r *cutRig) recorded() int64 {
	fi, err := os.Stat(r.path("log.img"))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// A blockWrite is one entry of the recording (the format of dm-log-writes).
type blockWrite struct {
	off   int64 // on the medium
	data  []byte
	flush bool
	end   int64 // of the entry in the recording
}

func parseRecording(t *testing.T, data []byte) (list []blockWrite) {
	t.Helper()
	le := binary.LittleEndian
	if len(data) < 512 || le.Uint64(data) != 0x6a736677736872 {
		t.Fatal("the recording has no header")
	}
	count, sector := le.Uint64(data[16:]), int64(le.Uint32(data[24:]))
	at := sector
	for range count {
		if at+sector > int64(len(data)) {
			break
		}
		e := data[at:]
		off, n, flags := int64(le.Uint64(e))*sector, int64(le.Uint64(e[8:]))*sector, le.Uint64(e[16:])
		w := blockWrite{off: off, flush: flags&3 != 0}
		at += sector
		if flags&4 == 0 { // no discard: data follows
			if at+n > int64(len(data)) {
				break
			}
			w.data = data[at : at+n]
			at += n
		}
		w.end = at
		list = append(list, w)
	}
	return list
}

// state writes the medium as a cut after the first k entries may leave it: up
// to the last flush all of them, of the rest what pick chooses.
func (r *cutRig) state(name string, list []blockWrite, k int, rng *rand.Rand) {
	r.t.Helper()
	r.run("cp", r.path("before.img"), r.path(name))
	f, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	sure := 0
	for i := range k {
		if list[i].flush {
			sure = i + 1 // a flush covers what came before it, and FUA itself
		}
	}
	mode := rng.IntN(4)
	for i, w := range list[:k] {
		data := w.data
		if i >= sure {
			switch {
			case mode == 0, mode > 1 && rng.IntN(2) == 0:
				continue
			case mode == 3 && len(data) > 512:
				data = data[:512*(1+rng.IntN(len(data)/512))]
			}
		}
		if _, err := f.WriteAt(data, w.off); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A promise is that all records up to n are on the medium once the recording
// has reached a length.
type promise struct {
	n   int
	end int64
}

// workload uses a log for a while and returns what it promised.
func (r *cutRig) workload(cfg Config, rng *rand.Rand) (promises []promise, acked int) {
	t := r.t
	t.Helper()
	var mu sync.Mutex
	l := mustOpen(t, cfg)
	c := mustConsumer(t, l, "aws")
	reader := c.Reader(0, 0)
	defer func() { reader.Close() }()
	n := 0
	for range 60 {
		batch := 1 + rng.IntN(20)
		var wait sync.WaitGroup
		for range batch {
			n++
			wait.Add(1)
			body := fmt.Sprintf("%d %s", n, strings.Repeat("x", rng.IntN(3000)))
			me := n
			_, err := l.Append(Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: []byte(body)}, func(err error) {
				defer wait.Done()
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				promises = append(promises, promise{me, r.recorded()})
				mu.Unlock()
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		wait.Wait()
		if rng.IntN(10) == 0 { // the far side takes some: segments are used again
			for range rng.IntN(80) {
				if acked >= n-60 {
					break
				}
				rec, err := reader.Next(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				acked++
				c.Ack(rec.Seq)
			}
		}
		if rng.IntN(20) == 0 {
			l.Close()
			reader.Close()
			l = mustOpen(t, cfg)
			c = mustConsumer(t, l, "aws")
			reader = c.Reader(0, 0)
		}
	}
	l.Close()
	return promises, acked
}

// verify opens the log on the medium and returns the records that are there.
func (r *cutRig) verify(cfg Config) map[int]bool {
	t := r.t
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatalf("the log does not open: %v", err)
	}
	defer l.Close()
	got := make(map[int]bool)
	c := mustConsumer(t, l, "aws")
	reader := c.Scan(0, l.Last())
	defer reader.Close()
	last := 0
	for {
		rec, err := reader.Next(t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := fmt.Sscan(string(rec.Data), &n); err != nil || n <= last {
			t.Errorf("record %.20q after %d: invented or out of order", rec.Data, last)
		}
		last = n
		got[n] = true
	}
}

// cut runs a workload and then looks at states of its medium. It returns how
// many states had lost a record that was promised.
func (r *cutRig) cut(cfg func(mount, ring string) Config, states int, rng *rand.Rand) (lossy int) {
	t := r.t
	t.Helper()
	r.start()
	promises, acked := r.workload(cfg(r.mount, r.path("ring")), rng)
	list := parseRecording(t, r.stop())
	if len(list) < 20 || len(promises) < 50 {
		t.Fatalf("%d writes and %d promises are too few to tell", len(list), len(promises))
	}
	unmounted := 0
	for i := range states {
		k := 1 + rng.IntN(len(list))
		name := fmt.Sprintf("state%d.img", i)
		r.state(name, list, k, rng)
		if !r.attach(r.path(name)) {
			r.detach()
			unmounted++
			continue
		}
		// The ring was on a tmpfs: it is gone.
		got := r.verify(cfg(r.mount, r.path(fmt.Sprintf("ring%d", i))))
		r.detach()
		os.Remove(r.path(name))
		missing := 0
		for _, p := range promises {
			if p.n > acked && p.end <= list[k-1].end && !got[p.n] {
				missing++
			}
		}
		if missing > 0 {
			lossy++
		}
	}
	if unmounted > states/2 {
		t.Errorf("%d of %d states cannot be mounted", unmounted, states)
	}
	t.Logf("%d writes, %d records, %d states (%d cannot be mounted), %d with a loss", len(list), len(promises), states, unmounted, lossy)
	return lossy
}

func cutConfig(fsys FS) func(mount, ring string) Config {
	return func(mount, ring string) Config {
		return Config{Dir: filepath.Join(mount, "spool"), RingDir: ring, Name: "telemetry", Size: 8 << 20, Segment: 256 << 10,
			Reserve: -1, Sync: Policy{Mode: Always}, FS: fsys}
	}
}

func TestPowerCutOnARealFileSystem(t *testing.T) {
	t.Parallel()
	states := 300
	if os.Getenv("GATEWAY_LONG") != "" {
		states = 10_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const each = 100 // of one recording
	for n := 0; n < states; n += each {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel() // mostly waits for mount and umount
			r := newCutRig(t)
			if lossy := r.cut(cutConfig(nil), each, rand.New(rand.NewPCG(seed, uint64(n)))); lossy > 0 {
				t.Errorf("%d states lost what was acknowledged", lossy)
			}
		})
	}
}

// Without syncs the harness has to see losses, or it sees nothing.
func TestPowerCutHarnessSeesAMissingSync(t *testing.T) {
	t.Parallel()
	r := newCutRig(t)
	if lossy := r.cut(cutConfig(neverSyncs{OS()}), 40, rand.New(rand.NewPCG(1, 2))); lossy == 0 {
		t.Error("a log that never syncs lost nothing")
	}
}

// neverSyncs is a file system whose syncs do nothing.
type neverSyncs struct{ FS }

func (f neverSyncs) Dir(path string) (Dir, error) {
	d, err := f.FS.Dir(path)
	return lazyDir{d}, err
}

type lazyDir struct{ Dir }

func (lazyDir) Sync() error { return nil }

func (d lazyDir) Open(name string) (File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (d lazyDir) Create(name string) (File, error) {
	f, err := d.Dir.Create(name)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

type lazyFile struct{ File }

func (lazyFile) Sync() error { return nil }
