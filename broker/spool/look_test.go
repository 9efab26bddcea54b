package spool_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// contents returns all that is on d.
func contents(d *spooltest.Disk) map[string]string {
	all := make(map[string]string)
	for _, dir := range []string{"card", "run"} {
		for _, name := range d.Files(dir) {
			all[dir+"/"+name] = string(d.Bytes(dir, name))
		}
	}
	return all
}

func TestLookSeesAllAndChangesNothing(t *testing.T) {
	for name, hurt := range map[string]func(*spooltest.Disk){
		"whole":        func(*spooltest.Disk) {},
		"META damaged": func(d *spooltest.Disk) { d.Flip("card", "META", 20) },
		"half a spare": func(d *spooltest.Disk) {
			dir, _ := d.Dir("card")
			f, _ := dir.Create("spare-000000ff.seg")
			f.WriteAt(make([]byte, 5000), 0)
		},
	} {
		lives(t, func(t *testing.T, d *spooltest.Disk) {
			cfg := roomy(t, d, Interval)
			cfg.Compress = true
			l := mustOpen(t, cfg)
			c := mustConsumer(t, l, "aws")
			put(t, l, c, 0, 300)
			mustPut(t, l, c, large(1, 300<<10))
			synctest.Wait()       // its commit takes no others along
			put(t, l, c, 300, 20) // these are in the ring only
			id := l.ID()
			d.Kill()
			l.Close()
			hurt(d)
			before := contents(d)
			for range 2 {
				l, err := Look(cfg)
				if err != nil {
					t.Fatal(name, err)
				}
				c := l.Find("aws")
				if c == nil || l.ID() != id || len(l.Consumers()) != 1 {
					t.Fatalf("%s: log %s with %d consumers", name, l.ID(), len(l.Consumers()))
				}
				got := scan(t, c, c.Acked(), l.Last())
				if len(got) != 321 || len(got[300]) != 300<<10 || !slices.Equal(append(got[:300:300], got[301:]...), numbers(0, 320)) {
					t.Errorf("%s: %d records", name, len(got))
				}
				if b := c.Backlog(); b.Records != 321 {
					t.Errorf("%s: backlog %+v", name, b)
				}
				if _, err := l.Append(Record{}, nil); !errors.Is(err, ErrLookOnly) {
					t.Error(name, err)
				}
				if _, err := l.Consumer("new"); !errors.Is(err, ErrLookOnly) {
					t.Error(name, err)
				}
				if err := errors.Join(l.Remove("aws")); !errors.Is(err, ErrLookOnly) || c.Purge() != 0 {
					t.Error(name, err)
				}
				if r, err := l.Verify(t.Context()); err != nil || r.Records != 301 || (len(r.Damage) > 0) != (name == "META damaged") {
					t.Errorf("%s: %+v %v", name, r, err)
				}
				if err := l.Close(); err != nil {
					t.Error(name, err)
				}
			}
			if after := contents(d); !maps.Equal(before, after) {
				t.Errorf("%s: files %v, were %v", name, slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
			}
		})
	}
}

// On files, too, and a gateway can start meanwhile.
func TestLookOnFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := fileConfig(dir, Interval)
	if _, err := Look(cfg); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("looking made %v", list)
	}
	l := mustOpen(t, cfg)
	c := mustConsumer(t, l, "aws")
	put(t, l, c, 0, 30)
	if _, err := Look(cfg); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	look, err := Look(cfg)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, scan(t, look.Find("aws"), 0, look.Last()), numbers(0, 30))
	l = mustOpen(t, cfg)
	equal(t, take(t, l, mustConsumer(t, l, "aws"), true), numbers(0, 30))
	l.Close()
	look.Close()
	if info, err := os.Stat(filepath.Join(dir, "card", "META")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
}

func TestVerifyNamesThePlace(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := roomy(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		for i := range 20 {
			put(t, l, c, i, 1)
		}
		mustPut(t, l, c, large(1, 400<<10))
		if r, err := l.Verify(t.Context()); err != nil || len(r.Damage) != 0 || r.Records != 21 || r.Segments < 2 {
			t.Errorf("%+v %v", r, err)
		}
		l.Close()
		segs := segments(d)
		d.Flip("card", segs[0], 4096*6+100)
		d.Flip("card", segs[1], 4096*30)
		d.Flip("card", "META.bak", 3)
		l = mustOpen(t, cfg)
		d.Fail(func(op spooltest.Op) error {
			if op.Kind == "read" && op.File == segs[1] && op.N%40 == 0 {
				return errors.New("medium error")
			}
			return nil
		})
		r, err := l.Verify(t.Context())
		d.Fail(nil)
		if err != nil || len(r.Damage) < 3 {
			t.Fatalf("%+v %v", r, err)
		}
		if want := (Damage{segs[0], 4096 * 6, 4096, "no valid block"}); r.Damage[0] != want {
			t.Errorf("%+v, want %+v", r.Damage[0], want)
		}
		if x := r.Damage[len(r.Damage)-1]; x.What != "the last part of a record of which others are missing" {
			t.Errorf("%+v", r.Damage)
		}
		l.Close()
	})
}

func TestPurgeLeavesNothingButTheGap(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 40)
		time.Sleep(time.Minute)
		put(t, l, c, 40, 2)
		if n := c.Purge(); n != 42 {
			t.Errorf("%d purged", n)
		}
		put(t, l, c, 42, 3)
		d.Kill()
		l.Close()
		l = mustOpen(t, cfg)
		c = mustConsumer(t, l, "aws")
		equal(t, take(t, l, c, true), append([]string{fmt.Sprint("gap 42 ", ReasonPurged)}, numbers(42, 3)...))
		if n := c.Purge(); n != 0 {
			t.Errorf("%d purged of nothing", n)
		}
		l.Close()
	})
}
