// Package homeassistant writes the discovery messages of Home Assistant: what
// devices and values there are, on which topics they are found, how they are
// read there and how they are written. It is pure; who publishes the messages
// and when is up to cmd/gateway.
//
// # Decisions
//
// There is one message for each device ("device-based discovery", which Home
// Assistant has since 2024.11), and one for the gateway itself with its own
// figures. Entities are called by default_entity_id, not object_id, which
// Home Assistant has dropped. All keys are written out: a message is sent
// rarely and read by people.
//
// Ids are made of table keys, so that a device or a gateway that is renamed
// stays the same to Home Assistant, with its history. An id that had to give
// up characters ends in a hash of the whole.
//
// A state comes from what the publish tables publish anyway: the JSON of a
// point, else its bare value, else the JSON of its device, where a point that
// was not read in a cycle is absent and leaves the entity as it is. There is
// nothing else to be configured twice.
//
// A device is available when both the gateway and the device say "online", so
// that a dead meter becomes unavailable alone.
//
// Commands are JSON, and bear "expires" where they come over a bridge, which
// refuses any that do not.
package homeassistant
