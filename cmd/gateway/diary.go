package main

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/mapping"
)

// diaryVersion is the format of the diary's file.
const diaryVersion = 1

// diaryEvery is how often the diary is written while something changes: a
// power cut costs the daily figures at most the split of so much between two
// days, and the card is written 144 times a day.
const diaryEvery = 10 * time.Minute

// A diary keeps what computed points must remember over a restart, such as
// where a day's energy began, in a file of the state folder. It asks the pumps
// for it now and then, and once they have ended.
type diary struct {
	path  string
	log   *slog.Logger
	buses func() []*bus // those that there are now

	mu    sync.Mutex
	saved map[string]mapping.Memory // by device ID; also of devices that are not configured at present
}

// A diaryFile is the file.
type diaryFile struct {
	Version int                       `json:"version"`
	Devices map[string]mapping.Memory `json:"devices"`
}

// openDiary reads the file.
func openDiary(path string, buses func() []*bus, log *slog.Logger) *diary {
	var file diaryFile
	if err := readKept(path, diaryVersion, &file); err != nil {
		log.Warn("what was computed of earlier readings cannot be read; days and hours begin anew", "err", err)
		file = diaryFile{}
	}
	d := &diary{path: path, log: log, buses: buses, saved: map[string]mapping.Memory{}}
	maps.Copy(d.saved, file.Devices)
	return d
}

// give has the mapper of a bus, which does not run yet, remember what is its.
func (d *diary) give(b *bus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b.pump.mapper.Remember(d.saved)
}

// run writes the file until ctx is done, and then what is left; the pumps have
// ended by then.
func (d *diary) run(ctx context.Context) error {
	for devices.Sleep(ctx, diaryEvery) {
		now := map[string]mapping.Memory{}
		for _, b := range d.buses() {
			asking, stop := context.WithTimeout(ctx, time.Second) // a reload may have ended it
			b.pump.call(asking, func(m *mapping.Mapper) { maps.Copy(now, m.Memories()) })
			stop()
		}
		d.save(now)
	}
	d.finish(d.buses()...)
	return nil
}

// finish writes what buses have to remember whose pumps have ended.
func (d *diary) finish(buses ...*bus) {
	now := map[string]mapping.Memory{}
	for _, b := range buses {
		maps.Copy(now, b.pump.mapper.Memories())
	}
	d.save(now)
}

// save writes the file with what is new.
func (d *diary) save(news map[string]mapping.Memory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := maps.Clone(d.saved)
	maps.Copy(now, news)
	if reflect.DeepEqual(now, d.saved) {
		return
	}
	if err := writeWhole(d.path, diaryFile{Version: diaryVersion, Devices: now}); err != nil {
		d.log.Warn("what computed points remember is not saved; after a restart days and hours begin anew", "err", err)
		return
	}
	d.saved = now
}
