package main

import (
	"cmp"
	endian "encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/broker/spool"
)

const diskArea = "disk"

// A mount is where a file system begins.
type mount struct {
	point, kind, device string
	options             []string // of the mount and of the file system
}

// mountOf returns that of a folder, nil if it is not known. The last one
// mounted at a point covers those before.
func (h *host) mountOf(dir string) (found *mount) {
	for line := range strings.Lines(h.read("proc/self/mountinfo")) {
		// 36 35 98:0 / /var rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
		here, fs, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(here), strings.Fields(fs)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		point := strings.ReplaceAll(f[4], `\040`, " ")
		inside := point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
		if inside && (found == nil || len(point) >= len(found.point)) {
			found = &mount{point, g[0], g[1], append(strings.Split(f[5], ","), strings.Split(g[2], ",")...)}
		}
	}
	return found
}

// option returns the value of NAME=VALUE, "" without a value, and whether it
// is there.
func (m *mount) option(name string) (value string, ok bool) {
	for _, o := range m.options {
		if key, value, _ := strings.Cut(o, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// existing is the nearest folder above that there is: the state folder is
// made at the first start.
func existing(dir string) string {
	if full, err := filepath.Abs(dir); err == nil {
		dir = full
	}
	for dir != "/" {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return real
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// disk looks at where the buffers, and what must not be lost, are kept.
func (d *doctor) disk() {
	sizes := map[string]int64{d.at.state: 0} // what may be taken, by folder
	interval := false
	if d.cfg != nil {
		for _, s := range spoolSettings(d.cfg) {
			sizes[cmp.Or(s.Dir, d.at.state)] += s.Size
			interval = interval || s.Sync.Mode == spool.Interval
		}
	}
	dirs := make([]string, 0, len(sizes))
	for dir := range sizes {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		before := len(d.findings)
		d.space(dir, sizes[dir])
		m := d.mountOf(existing(dir))
		if m != nil {
			d.fileSystem(dir, m)
			d.mountOptions(dir, m)
		}
		if len(d.findings) == before && m != nil {
			d.say(diskArea, fine, dir, "", "%s on %s", m.kind, m.device)
		}
	}
	d.runtime(interval)
}

// taken returns how many bytes the buffers have already.
func taken(dir string) (n int64) {
	_ = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil // what is gone or not for our eyes counts nothing
	})
	return n
}

// space looks at what is free.
func (d *doctor) space(dir string, size int64) {
	s, err := d.statfs(existing(dir))
	if err != nil {
		d.say(diskArea, warning, dir, "", "how much is free is not known: %v", err)
		return
	}
	block := int64(s.Bsize) // 32 bits wide on a 32-bit Pi
	free, total := int64(s.Bavail)*block, int64(s.Blocks)*block
	reserve := spool.DefaultReserve(total)
	const makeRoom = "make room: sudo apt clean; sudo journalctl --vacuum-size=50M; sudo du -xh / | sort -h | tail"
	switch grow := size - taken(dir); {
	case free < reserve:
		d.say(diskArea, failure, dir, makeRoom, "%s of %s are free; below %s the buffers grow no more, and give up their oldest messages", bytesText(free), bytesText(total), bytesText(reserve))
	case grow > free-reserve:
		d.say(diskArea, warning, dir, "smaller ones (size in [spool]), or "+makeRoom, "the buffers may grow by %s more, and %s are free of which %s stay so: a long outage would lose more than was reckoned with", bytesText(grow), bytesText(free), bytesText(reserve))
	}
	if s.Files > 0 && s.Ffree < 100 {
		d.say(diskArea, failure, dir, "remove small files; sudo du --inodes -x / | sort -n | tail shows where they are", "the file system can hold hardly any file more (%d inodes are free)", s.Ffree)
	}
}

// fileSystem looks at what kind it is.
func (d *doctor) fileSystem(dir string, m *mount) {
	const other = "a file system of Linux (ext4) there; [spool] dir names another place"
	switch m.kind {
	case "vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk":
		d.say(diskArea, failure, dir, other, "it is on %s, which has no journal: a power cut may damage all of it", m.kind)
	case "tmpfs", "ramfs":
		d.say(diskArea, failure, dir, "a folder on a disk: --state, or [spool] dir", "it is on %s, in memory: a power cut or reboot loses all that is buffered", m.kind)
	case "overlay", "aufs":
		d.say(diskArea, warning, dir, "in a container, a volume for it; on a Pi with the overlay file system, sudo raspi-config: Performance, Overlay File System, no; or a disk of its own and [spool] dir", "it is on %s: what is written may be gone after a restart", m.kind)
	case "nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs":
		d.say(diskArea, warning, dir, other, "it is on %s, over the network: buffering stands still when that does", m.kind)
	case "btrfs", "zfs", "f2fs", "bcachefs":
		d.say(diskArea, note, dir, "", "%s copies on write: a full disk can refuse also what the buffers reserved; keep more free", m.kind)
	}
	if _, ro := m.option("ro"); ro {
		d.say(diskArea, failure, dir, "dmesg | grep -i -e mmc -e ext4 -e 'i/o error'; sudo mount -o remount,rw "+m.point+" tries; a card that did this once wants to be replaced", "%s is mounted read-only, as the kernel does upon errors of the disk", m.point)
	}
}

// mountOptions looks at those that wear a card, or that promise what they do
// not keep.
func (d *doctor) mountOptions(dir string, m *mount) {
	fstab := "take it out of the line of " + m.point + " in /etc/fstab; then sudo mount -o remount " + m.point
	if _, ok := m.option("strictatime"); ok {
		d.say(diskArea, warning, dir, fstab, "strictatime writes to the disk for each file that is read, which wears a card")
	}
	if _, ok := m.option("sync"); ok {
		d.say(diskArea, warning, dir, fstab, "sync writes each byte at once, also of logs, which wears a card; the buffers sync by themselves")
	}
	value, barrier := m.option("barrier")
	if _, no := m.option("nobarrier"); no || barrier && value == "0" {
		d.say(diskArea, failure, dir, fstab, "without barriers a power cut loses what was said to be safe, and may damage the file system")
	}
	if value, _ := m.option("data"); value == "writeback" {
		d.say(diskArea, note, dir, "", "with data=writeback files may hold old bytes after a power cut; the buffers notice theirs by their checksums")
	}
	if value, _ := m.option("commit"); value != "" {
		if n, err := strconv.Atoi(value); err == nil && n > 30 {
			d.say(diskArea, note, dir, "", "commit=%d: what is written without a sync, such as logs, may be %v old after a power cut; the buffers sync by themselves", n, time.Duration(n)*time.Second)
		}
	}
	d.fastCommit(dir, m)
}

// fastCommit finds ext4 with a feature that loses data on old kernels.
func (d *doctor) fastCommit(dir string, m *mount) {
	kernel := d.read("proc/sys/kernel/osrelease")
	if m.kind != "ext4" || !badFastCommit(kernel) {
		return
	}
	on, err := d.hasFastCommit(m.device)
	switch {
	case err != nil:
		d.say(diskArea, note, dir, "sudo gateway doctor", "kernel %s loses data of ext4 with fast_commit, and whether %s has that only root can see", kernel, m.device)
	case on:
		d.say(diskArea, failure, dir, "a kernel from 5.10.94, or from 5.15.27; or, with it not mounted: sudo tune2fs -O ^fast_commit "+m.device, "ext4 with fast_commit loses data after a power cut with kernel %s", kernel)
	}
}

// badFastCommit reports whether a kernel has fast_commit and not what mended it:
// 5.10.94 in the line of 5.10, 5.15.27 in that of 5.15.
func badFastCommit(kernel string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(kernel, "%d.%d.%d", &major, &minor, &patch); n < 2 || major != 5 {
		return false
	}
	switch {
	case minor == 10:
		return patch < 94
	case minor == 15:
		return patch < 27
	}
	return minor > 10 && minor < 15
}

// hasFastCommit reads the superblock: the features of kind "compatible" stand
// 0x5C bytes into it, and 0x400 is fast_commit.
func (h *host) hasFastCommit(device string) (bool, error) {
	f, err := os.Open(h.path(device))
	if err != nil {
		return false, err
	}
	defer f.Close()
	block := make([]byte, 0x60)
	if _, err := io.ReadFull(io.NewSectionReader(f, 1024, 0x60), block); err != nil {
		return false, err
	}
	if endian.LittleEndian.Uint16(block[0x38:]) != 0xEF53 {
		return false, fmt.Errorf("%s holds no ext4", device)
	}
	return endian.LittleEndian.Uint32(block[0x5C:])&0x400 != 0, nil
}

// runtime looks where the ring of each buffer is, into which every message goes
// between two syncs.
func (d *doctor) runtime(interval bool) {
	m := d.mountOf(existing(d.at.runtime))
	if m == nil || !interval {
		return
	}
	if m.kind == "tmpfs" || m.kind == "ramfs" {
		d.say(diskArea, fine, d.at.runtime, "", "the unsynced end of the buffers is in memory (%s)", m.kind)
		return
	}
	d.say(diskArea, warning, d.at.runtime, "sudo systemctl start gateway has it in /run/gateway; by hand: RUNTIME_DIRECTORY=/run/gateway gateway run, with a folder there that is the user's",
		"the unsynced end of the buffers is on a disk (%s): every message is written there first, which wears a card many times faster", m.kind)
}
