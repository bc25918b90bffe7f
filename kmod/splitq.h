/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SPLITQ_H
#define SPLITQ_H

struct dentry;

int splitq_pause_init(struct dentry *dir);
void splitq_pause_exit(void);

void splitq_folio_init(struct dentry *dir);

#endif
