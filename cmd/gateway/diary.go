package main

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
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
	buses []*bus
	saved map[string]mapping.Memory // by device ID; also of devices that are not configured at present
}

// A diaryFile is the file.
type diaryFile struct {
	Version int                       `json:"version"`
	Devices map[string]mapping.Memory `json:"devices"`
}

// openDiary reads the file and gives the mappers of buses what is theirs.
func openDiary(path string, buses []*bus, log *slog.Logger) *diary {
	var file diaryFile
	if err := readKept(path, diaryVersion, &file); err != nil {
		log.Warn("what was computed of earlier readings cannot be read; days and hours begin anew", "err", err)
		file = diaryFile{}
	}
	d := &diary{path: path, log: log, buses: buses, saved: map[string]mapping.Memory{}}
	maps.Copy(d.saved, file.Devices)
	for _, b := range buses {
		b.pump.mapper.Remember(d.saved)
	}
	return d
}

// run writes the file until ctx is done, and then what is left; the pumps have
// ended by then.
func (d *diary) run(ctx context.Context) error {
	for devices.Sleep(ctx, diaryEvery) {
		now := maps.Clone(d.saved)
		for _, b := range d.buses {
			b.pump.call(ctx, func(m *mapping.Mapper) { maps.Copy(now, m.Memories()) })
		}
		d.save(now)
	}
	d.finish()
	return nil
}

// finish writes what is left when the pumps have ended.
func (d *diary) finish() {
	now := maps.Clone(d.saved)
	for _, b := range d.buses {
		maps.Copy(now, b.pump.mapper.Memories())
	}
	d.save(now)
}

func (d *diary) save(now map[string]mapping.Memory) {
	if reflect.DeepEqual(now, d.saved) {
		return
	}
	if err := writeWhole(d.path, diaryFile{Version: diaryVersion, Devices: now}); err != nil {
		d.log.Warn("what computed points remember is not saved; after a restart days and hours begin anew", "err", err)
		return
	}
	d.saved = now
}
