package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"edgegateway/devices/modbus"
)

// notebookVersion is the format of the notebook's file.
const notebookVersion = 1

// A notebook keeps what the lines learn about their devices in a file of the
// state folder, by device, so that a device that moves to another bus or
// address is known there. It is written when something was learned, by its own
// goroutine: no line waits for the card. To let the gateway learn anew, stop
// it and delete the file.
type notebook struct {
	path string
	log  *slog.Logger
	wake chan struct{} // room for one: the file is behind

	mu      sync.Mutex
	devices []string                // IDs of those in the configuration
	facts   map[string]modbus.Facts // by device ID
}

// A notebookFile is the file.
type notebookFile struct {
	Version int                     `json:"version"`
	Devices map[string]modbus.Facts `json:"devices"`
}

var _ modbus.Notebook = (*notebook)(nil)

// openNotebook reads the file. A gateway without one that it can read learns
// everything anew.
func openNotebook(path string, devices []string, log *slog.Logger) *notebook {
	n := &notebook{path: path, log: log, devices: devices, wake: make(chan struct{}, 1), facts: map[string]modbus.Facts{}}
	var file notebookFile
	if err := readKept(path, notebookVersion, &file); err != nil {
		log.Warn("what was learned about devices cannot be read; learning it anew", "err", err)
		file = notebookFile{}
	}
	for device, f := range file.Devices {
		n.facts[device] = f
	}
	return n
}

// readKept reads a JSON file of the state folder into v; one that is not there
// leaves v as it is. One that cannot be used is moved aside, so that it is not
// lost when the next is written.
func readKept(path string, known int, v any) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var head struct {
		Version int `json:"version"`
	}
	err = json.Unmarshal(text, &head)
	if err == nil && head.Version > known {
		err = fmt.Errorf("it has format %d, this program knows %d", head.Version, known)
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err == nil {
		return nil
	}
	aside := path + ".unreadable"
	return errors.Join(fmt.Errorf("read %s, now %s: %w", path, filepath.Base(aside), err), os.Rename(path, aside))
}

// adopt says which devices there are now.
func (n *notebook) adopt(devices []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.devices = devices
}

// Facts returns what is known of a device.
func (n *notebook) Facts(device string) (f modbus.Facts, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.facts[device], slices.Contains(n.devices, device)
}

// fewRefused is how many refused points of a device are told one by one. A
// device that refuses more has another map, and that is what to say.
const fewRefused = 3

// Learned takes what is known of a device now and logs the news.
func (n *notebook) Learned(device string, f modbus.Facts, news string) {
	n.mu.Lock()
	more := len(f.Illegal) > fewRefused && len(f.Illegal) > len(n.facts[device].Illegal)
	n.facts[device] = f
	n.mu.Unlock()
	switch {
	case news == "":
	case !more:
		n.log.Warn(news, "device", device)
	case len(f.Illegal) == fewRefused+1:
		n.log.Warn("the device refuses many of its points, the rest of which is not told one by one: its map is probably that of another model or counts from 1; "+
			"`gateway read "+device+"` shows which, `gateway scan` what the device is", "device", device)
	default:
		n.log.Debug(news, "device", device)
	}
	select {
	case n.wake <- struct{}{}:
	default: // it will be written with what is under way
	}
}

// run writes the file after changes until ctx is done, and then what is left.
func (n *notebook) run(ctx context.Context) error {
	for {
		select {
		case <-n.wake:
			n.save()
		case <-ctx.Done():
			select {
			case <-n.wake:
				n.save()
			default:
			}
			return nil
		}
	}
}

func (n *notebook) save() {
	n.mu.Lock()
	file := notebookFile{Version: notebookVersion, Devices: map[string]modbus.Facts{}}
	for device, f := range n.facts {
		if !f.Empty() {
			file.Devices[device] = f
		}
	}
	n.mu.Unlock()
	if err := writeWhole(n.path, file); err != nil {
		n.log.Warn("what was learned about devices is not saved; after a restart it is learned anew", "err", err)
	}
}

// writeWhole writes v as JSON so that path is the old file or the new one, also
// after a power cut.
func writeWhole(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name()) // on a full disk it would be in the way
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
