// Package configs holds the files that come with the program: the device
// profiles, the reference of every key, and the examples. They are files of
// this folder so that people find and copy them as they are.
//
// A profile says what one kind of device has to tell: maker, model, the
// defaults for all its points, its groups and its points. It never says where
// a device is. Its name is its path without the ending: eastron/sdm630. All
// profiles use one vocabulary (voltage_l1, power, energy_import), which
// docs/profiles.md defines, so that what works with one meter works with the
// next.
//
// Their facts come from programs and documents in the field, which each names
// at its top with its doubts; names and texts are our own. What two sources
// contradict each other about is left out. None writes to a device.
package configs

import "embed"

// Profiles holds the device maps as profiles/MAKER/MODEL.toml. A site's own
// folder is looked in first.
//
//go:embed profiles
var Profiles embed.FS
