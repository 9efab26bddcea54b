package spool_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	. "edgegateway/broker/spool"
)

// A loopDisk is an ext4 on a loop device.
type loopDisk struct{ device, dir string }

// newLoopDisk makes one where root allows; else it says why not.
func newLoopDisk(t *testing.T) *loopDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("NOT MEASURED: loop devices are for root only")
		return nil
	}
	image, d := filepath.Join(memoryDir(t), "image"), &loopDisk{dir: t.TempDir()}
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(128<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) (string, bool) {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Logf("NOT MEASURED: %s %v: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out)), err == nil
	}
	ok := false
	if _, ok = run("mkfs.ext4", "-q", "-F", image); !ok {
		return nil
	}
	if d.device, ok = run("losetup", "-f", "--show", image); !ok {
		return nil
	}
	t.Cleanup(func() { run("losetup", "-d", d.device) })
	if _, ok = run("mount", d.device, d.dir); !ok {
		return nil
	}
	t.Cleanup(func() { unmount(t, d.dir) })
	return d
}

// sync writes back what this file system holds; syscall.Sync would wait for the
// disks of everybody.
func (d *loopDisk) sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// written returns the bytes and flushes that the device has had.
func (d *loopDisk) written(t *testing.T) (bytes, flushes int64) {
	if err := d.sync(); err != nil {
		t.Fatal(err)
	}
	p, err := os.ReadFile("/sys/block/" + filepath.Base(d.device) + "/stat")
	f := strings.Fields(string(p))
	if err != nil || len(f) < 16 {
		t.Fatal(string(p), err)
	}
	sectors, _ := strconv.ParseInt(f[6], 10, 64)
	flushes, _ = strconv.ParseInt(f[15], 10, 64)
	return sectors * 512, flushes
}

// TestDeviceBytes measures what a card is written for each byte of payload at
// 200 records of 200 bytes a second, once the segments have been used before.
func TestDeviceBytes(t *testing.T) {
	t.Parallel()
	length := 10 * time.Second
	if os.Getenv("GATEWAY_LONG") != "" {
		length = 2 * time.Minute
	}
	for _, test := range []struct {
		name                string
		compress, connected bool
		most                float64
	}{
		{"buffering", false, false, 1.2},
		{"buffering, zstd", true, false, 0.5},
		{"connected", false, true, 0.25},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newLoopDisk(t)
			if d == nil {
				return
			}
			cfg := fileConfig(t.TempDir(), Interval)
			cfg.Dir, cfg.Segment, cfg.Compress = filepath.Join(d.dir, "spool"), 1<<20, test.compress
			cfg.Size = 8 * cfg.Segment
			l := mustOpen(t, cfg)
			defer l.Close()
			c := mustConsumer(t, l, "aws")
			use(t, l, c)
			before, flushesBefore := d.written(t)
			syncs := l.Stats().Syncs
			payload := feed(t, l, c, length, test.connected)
			if err := l.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			after, flushes := d.written(t)
			ratio := float64(after-before) / float64(payload)
			t.Logf("%.2f device bytes per byte of payload (%d of %d), %.2f syncs/s, %.2f flushes/s", ratio, after-before, payload,
				float64(l.Stats().Syncs-syncs)/length.Seconds(), float64(flushes-flushesBefore)/length.Seconds())
			if ratio > test.most {
				t.Errorf("%.2f device bytes per byte of payload, want at most %.2f", ratio, test.most)
			}
		})
	}
}

// use fills the log until the oldest is dropped, so that all its files exist,
// and ends the backlog.
func use(t *testing.T, l *Log, c *Consumer) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{})
	for l.Stats().Dropped[ReasonQuota] == 0 {
		data := make([]byte, 50<<10)
		rng.Read(data)
		if !appended(l, Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: data}, nil) {
			<-l.Room()
		}
	}
	c.AckTo(l.Last())
	if err := l.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1) // a commit stores the positions and frees the segments
	if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Urgent: true}, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// feed appends 200 records a second and returns the bytes of their data. What
// a busy machine made late follows at once: the rate decides how much a commit
// shares.
func feed(t *testing.T, l *Log, c *Consumer, length time.Duration, connected bool) (payload int) {
	t.Helper()
	reading := NewReadings()
	const pause = 5 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	r := c.Reader(l.Last(), 0)
	defer r.Close()
	start := time.Now()
	for n := range int(length / pause) {
		for time.Since(start) < time.Duration(n)*pause {
			<-tick.C
		}
		data := reading(nil)
		payload += len(data)
		if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: data}, nil); err != nil {
			t.Fatal(err)
		}
		if !connected {
			continue
		}
		rec, err := r.Next(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Ack(rec.Seq)
	}
	return payload
}
